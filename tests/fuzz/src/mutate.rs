//! Changes of inputs: of their bytes, and of JSON values as values, because a changed byte mostly
//! ends in a syntax error.

use serde_json::{Map, Number, Value};

use crate::random::Random;

/// Numbers at the limits of types.
const NUMBERS: [i64; 14] =
    [0, 1, -1, 65_535, 65_536, i64::MAX, i64::MIN, 128, 129, 255, 32, 33, u32::MAX as i64, 2_592_000];
/// Texts that look like something.
const TEXTS: [&str; 20] = [
    "",
    "0",
    "-1",
    "null",
    "10.0.0.0/8",
    "10.0.0.1",
    "0.0.0.0/0",
    "::/0",
    "::",
    "::ffff:10.0.0.1",
    "fd00::/129",
    "/32",
    "10.0.0.0/-1",
    "fe80::1%eth0",
    "a.b",
    "..",
    "1e999",
    "99999999999999999999",
    "2026-12-01T00:00:00Z",
    "\u{0}\u{feff}é",
];
/// Deepest nesting that is made, beyond what decoders accept.
const DEEP: usize = 200;

pub(crate) struct Mutator<'a> {
    pub(crate) random: &'a mut Random,
    pub(crate) pool: &'a [Vec<u8>],
    pub(crate) words: &'a [&'a str],
    pub(crate) most: usize,
}

impl Mutator<'_> {
    /// Returns a changed input of the pool.
    pub(crate) fn input(&mut self) -> Vec<u8> {
        let mut input = self.random.pick(self.pool).clone();
        if self.random.below(10) < 7
            && let Ok(mut value) = serde_json::from_slice::<Value>(&input)
        {
            for _ in 0..=self.random.below(4) {
                self.change_value(&mut value);
            }
            input = value.to_string().into_bytes();
        } else {
            for _ in 0..=self.random.below(6) {
                self.change_bytes(&mut input);
            }
        }
        input.truncate(self.most);
        input
    }

    fn change_bytes(&mut self, input: &mut Vec<u8>) {
        let (at, byte) = (self.random.below(input.len() + 1), self.random.next() as u8);
        match self.random.below(9) {
            0 => input.truncate(at),
            1 => input.insert(at, byte),
            2 => {
                let end = input.len().min(at + self.random.below(64));
                input.drain(at..end);
            }
            3 => {
                let end = input.len().min(at + self.random.below(64));
                input.extend_from_within(at..end);
            }
            4 if !self.words.is_empty() => {
                let word = *self.random.pick(self.words);
                input.splice(at..at, word.bytes());
            }
            5 => {
                let text = *self.random.pick(&TEXTS);
                input.splice(at..at, text.bytes());
            }
            6 => {
                let other = self.random.pick(self.pool);
                let from = self.random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            7 => input.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << (byte % 8)),
            _ => input.iter_mut().skip(at).take(1).for_each(|b| *b = byte),
        }
    }

    /// Changes one value somewhere inside.
    fn change_value(&mut self, value: &mut Value) {
        let descends = self.random.below(5) > 0;
        match value {
            Value::Object(fields) if descends && !fields.is_empty() => {
                let at = self.random.below(fields.len());
                if let Some(value) = fields.values_mut().nth(at) {
                    self.change_value(value);
                }
            }
            Value::Array(items) if descends && !items.is_empty() => {
                let at = self.random.below(items.len());
                if self.random.below(4) == 0 {
                    let item = items[at].clone();
                    items.extend(std::iter::repeat_n(item, 1 + self.random.below(40)));
                } else {
                    self.change_value(&mut items[at]);
                }
            }
            Value::Object(fields) => self.change_fields(fields),
            Value::String(text) if self.random.below(2) == 0 => {
                let mut bytes = std::mem::take(text).into_bytes();
                self.change_bytes(&mut bytes);
                *text = String::from_utf8_lossy(&bytes).into_owned();
            }
            value => *value = self.value(),
        }
    }

    fn change_fields(&mut self, fields: &mut Map<String, Value>) {
        let known: Vec<String> = fields.keys().cloned().collect();
        match (self.random.below(3), known.is_empty()) {
            (0, false) => {
                let name = self.random.pick(&known).clone();
                fields.remove(&name);
            }
            (1, false) => {
                let name = self.random.pick(&known).clone();
                let value = self.value();
                fields.insert(name, value);
            }
            _ => {
                let name = if self.words.is_empty() { "x" } else { self.random.pick(self.words) };
                let value = self.value();
                fields.insert(name.to_owned(), value);
            }
        }
    }

    fn value(&mut self) -> Value {
        match self.random.below(9) {
            0 => Value::Null,
            1 => Value::Bool(self.random.below(2) == 0),
            2 | 3 => Value::Number((*self.random.pick(&NUMBERS)).into()),
            4 => {
                Value::Number(Number::from_f64(f64::from(self.random.next() as u32) / 7.0).unwrap_or_else(|| 0.into()))
            }
            5 => Value::String((*self.random.pick(&TEXTS)).to_owned()),
            6 => Value::String("x".repeat(self.random.below(4096))),
            7 if !self.words.is_empty() => Value::String((*self.random.pick(self.words)).to_owned()),
            _ => {
                let depth = self.random.below(DEEP);
                (0..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]))
            }
        }
    }
}
