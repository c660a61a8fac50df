//! Splits the body of a list into its items while it arrives, so that a list is never in memory as
//! a whole.
//!
//! Finds only the ends of values; `serde_json` checks and decodes each of them afterwards. A field
//! other than `items` and `metadata` is skipped.

use super::body::MAX_PART;

/// A part of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The JSON text of an item.
    Item(Vec<u8>),
    /// The list is complete; the JSON text of its metadata, empty if it has none.
    End(Vec<u8>),
    /// More bytes are needed.
    More,
}

/// The body is not a list in JSON, or a part of it is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotAList;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    Key,
    Colon,
    Field,
    Items,
    End,
}

/// The state of the search for a value's end.
#[derive(Clone, Copy, Debug, Default)]
struct Search {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// The scanner of one list.
#[derive(Debug, Default)]
pub(super) struct ListScanner {
    /// Bytes that are not part of a value that was returned.
    pub(super) buffer: Vec<u8>,
    /// Scanned bytes of the buffer.
    position: usize,
    /// Begin of the present value.
    begin: Option<usize>,
    search: Search,
    place: Place,
    key: Vec<u8>,
    metadata: Vec<u8>,
}

impl ListScanner {
    /// Returns the next part of what the buffer has so far.
    pub(super) fn next(&mut self) -> Result<Part, NotAList> {
        loop {
            if self.begin.is_some() {
                let Some(value) = self.value()? else { return Ok(Part::More) };
                match self.place {
                    Place::Items => return Ok(Part::Item(value)),
                    Place::Key => self.key = value,
                    _ if self.key == b"\"metadata\"" => self.metadata = value,
                    _ => {}
                }
                self.place = if self.place == Place::Key { Place::Colon } else { Place::Key };
                continue;
            }
            let Some(&byte) = self.buffer.get(self.position) else {
                self.forget();
                return Ok(Part::More);
            };
            self.step(byte)?;
            if self.place == Place::End {
                return Ok(Part::End(std::mem::take(&mut self.metadata)));
            }
        }
    }

    /// Takes a byte between two values.
    fn step(&mut self, byte: u8) -> Result<(), NotAList> {
        let place = self.place;
        let mut next = |place| {
            self.place = place;
            self.position += 1;
        };
        match (place, byte) {
            (_, b' ' | b'\n' | b'\r' | b'\t') | (Place::Key | Place::Items, b',') => self.position += 1,
            (Place::Start, b'{') | (Place::Items, b']') => next(Place::Key),
            (Place::Key, b'}') => next(Place::End),
            (Place::Colon, b':') => next(Place::Field),
            (Place::Field, b'[') if self.key == b"\"items\"" => next(Place::Items),
            (Place::Key, b'"') | (Place::Items, b'{') | (Place::Field, _) => self.begin = Some(self.position),
            _ => return Err(NotAList),
        }
        Ok(())
    }

    /// Returns the present value if its end has arrived.
    fn value(&mut self) -> Result<Option<Vec<u8>>, NotAList> {
        let begin = self.begin.unwrap_or(self.position);
        while let Some(&byte) = self.buffer.get(self.position) {
            // A number or a word ends before this byte, other values with it.
            let Search { depth, in_string, escaped } = &mut self.search;
            let end = match byte {
                _ if *escaped => {
                    *escaped = false;
                    None
                }
                b'\\' if *in_string => {
                    *escaped = true;
                    None
                }
                b'"' => {
                    *in_string = !*in_string;
                    (!*in_string && *depth == 0).then_some(1)
                }
                _ if *in_string => None,
                b'{' | b'[' => {
                    *depth += 1;
                    None
                }
                b'}' | b']' if *depth > 0 => {
                    *depth -= 1;
                    (*depth == 0).then_some(1)
                }
                b'}' | b']' | b',' | b' ' | b'\n' | b'\r' | b'\t' if *depth == 0 => Some(0),
                _ => None,
            };
            self.position += end.unwrap_or(1);
            if end.is_some() {
                let value = self.buffer[begin..self.position].to_vec();
                (self.begin, self.search) = (None, Search::default());
                self.forget();
                return Ok(Some(value));
            }
        }
        if self.buffer.len() - begin > MAX_PART { Err(NotAList) } else { Ok(None) }
    }

    /// Drops scanned bytes, seldom enough to cost little.
    fn forget(&mut self) {
        if self.position >= 64 << 10 || self.position == self.buffer.len() {
            self.buffer.drain(..self.position);
            self.position = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Scans a text that arrives in pieces of `step` bytes. Returns the items and the metadata.
    fn scan(text: &[u8], step: usize) -> Result<Option<(Vec<Value>, Value)>, NotAList> {
        let mut scanner = ListScanner::default();
        let mut items = Vec::new();
        for piece in text.chunks(step).chain([&[][..]]) {
            scanner.buffer.extend_from_slice(piece);
            loop {
                match scanner.next()? {
                    Part::Item(item) => items.push(serde_json::from_slice(&item).unwrap()),
                    Part::End(meta) => {
                        let meta = if meta.is_empty() { Value::Null } else { serde_json::from_slice(&meta).unwrap() };
                        return Ok(Some((items, meta)));
                    }
                    Part::More => break,
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn items_and_metadata_are_found_in_any_order_and_in_pieces() {
        for text in [
            r#"{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[{"a":"]}\"\\"},{"b":[1,{}]}]}"#,
            r#" { "items" : [ {"a":"]}\"\\"} , {"b":[1,{}]} ] , "x" : -1.5e3 , "y":null,"metadata" : {"resourceVersion":"5"} } "#,
        ] {
            for step in 1..text.len() {
                let (items, meta) = scan(text.as_bytes(), step).unwrap().unwrap();
                assert_eq!(items, [json!({"a": "]}\"\\"}), json!({"b": [1, {}]})], "{step}");
                assert_eq!(meta, json!({"resourceVersion": "5"}));
            }
        }
    }

    #[test]
    fn list_without_items_is_empty() {
        for text in [r#"{"metadata":{},"items":null}"#, r#"{"metadata":{},"items":[]}"#, r#"{"metadata":{}}"#] {
            assert_eq!(scan(text.as_bytes(), 3), Ok(Some((vec![], json!({})))), "{text}");
        }
        assert_eq!(scan(b"{}", 1), Ok(Some((vec![], Value::Null))));
    }

    #[test]
    fn truncated_list_never_ends() {
        let text = br#"{"metadata":{"resourceVersion":"5"},"items":[{"a":1},{"b":"x"}]}"#;
        for length in 0..text.len() {
            assert_eq!(scan(&text[..length], 7), Ok(None), "{length}");
        }
    }

    #[test]
    fn other_bodies_are_rejected() {
        for text in ["<html>", "[]", "{]", r#"{"items":["a"]}"#, r#"{"items":[}"#, "{1:2}", r#"{"a" 1}"#] {
            assert_eq!(scan(text.as_bytes(), 1), Err(NotAList), "{text}");
        }
    }

    #[test]
    fn endless_value_is_rejected() {
        let mut scanner = ListScanner::default();
        scanner.buffer.extend_from_slice(br#"{"items":[{"a":""#);
        assert_eq!(scanner.next(), Ok(Part::More));
        scanner.buffer.resize(MAX_PART + 100, b'a');
        assert_eq!(scanner.next(), Err(NotAList));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..5).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn items_are_those_of_a_json_parser(
            items in prop::collection::vec(prop::collection::btree_map(".*", value(), 0..4), 0..6),
            other in value(),
            step in 1_usize..40,
        ) {
            let items: Vec<Value> = items.into_iter().map(|m| Value::Object(m.into_iter().collect())).collect();
            let list = json!({"apiVersion": other, "items": items, "metadata": {"resourceVersion": "7"}, "z": other});
            let found = scan(list.to_string().as_bytes(), step).unwrap().unwrap();
            prop_assert_eq!(found, (items, json!({"resourceVersion": "7"})));
        }

        #[test]
        fn random_bodies_do_not_panic(text in prop::collection::vec(prop::sample::select(b"{}[]\",:\\ items1n".to_vec()), 0..60)) {
            let mut scanner = ListScanner { buffer: text, ..ListScanner::default() };
            while let Ok(Part::Item(_)) = scanner.next() {}
        }
    }
}
