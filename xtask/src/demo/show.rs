//! Formats what the demo prints. Pure text, no I/O.

use std::net::SocketAddr;

use ropeway_tests::cluster::Node;
use ropeway_tests::peer::Report;
use ropeway_tests::pod::{IpFamily, Pod};

/// Formats the nodes, their addresses and ranges, and the pods on them.
pub(super) fn picture(nodes: &[Node], pods: &[(&Pod, &str)]) -> String {
    let columns: Vec<Vec<String>> = nodes.iter().map(|node| column(node, pods)).collect();
    let width = columns.iter().flatten().map(String::len).max().unwrap_or_default() + 3;
    let height = columns.iter().map(Vec::len).max().unwrap_or_default();
    let whole = width * columns.len();
    let mut lines = vec![
        centred("client, outside: 192.168.50.1  fd00:50::1", whole),
        centred("|", whole),
        format!("{:=^whole$}", " one link "),
    ];
    let row = |cells: Vec<&str>| {
        let cells: Vec<_> = cells.iter().map(|cell| format!("{cell:<width$}")).collect();
        cells.concat().trim_end().to_owned()
    };
    lines.push(row(columns.iter().map(|_| "  |").collect()));
    for line in 0..height {
        lines.push(row(columns.iter().map(|column| column.get(line).map_or("", String::as_str)).collect()));
    }
    lines.join("\n")
}

fn column(node: &Node, pods: &[(&Pod, &str)]) -> Vec<String> {
    let mut lines = Vec::new();
    entry(&mut lines, &format!("{} ", node.name()), IpFamily::BOTH.map(|family| node.address(family).to_string()));
    entry(&mut lines, "   pods ", node.pod_cidrs());
    for (pod, role) in pods.iter().filter(|(pod, _)| pod.node().name() == node.name()) {
        entry(&mut lines, &format!("   [{}] ", pod.name()), pod.addresses().iter().map(ToString::to_string));
        lines.push(format!("      {role}"));
    }
    lines
}

/// Formats a title with values, one per line.
fn entry(lines: &mut Vec<String>, title: &str, values: impl IntoIterator<Item = String>) {
    for (number, value) in values.into_iter().enumerate() {
        let title = if number == 0 { title } else { "" };
        lines.push(format!("{title:12}{value}"));
    }
}

fn centred(text: &str, width: usize) -> String {
    format!("{text:^width$}").trim_end().to_owned()
}

/// Formats one line: client, target, and the number of answers of each backend.
pub(super) fn line(from: &str, target: SocketAddr, how: &str, report: &Report) -> String {
    let answers: Vec<_> = report.by_server.iter().map(|(server, count)| format!("{server} {count:>3}")).collect();
    let failures: Vec<_> = report.errors.iter().map(|(error, count)| format!("{error} {count}")).collect();
    let rest = if failures.is_empty() { String::new() } else { format!("  {}", failures.join(", ")) };
    format!("  {from:<13} -> {:<24} {how:<5} {}{rest}", target.to_string(), answers.join("   "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_shows_answers_and_failures() {
        let mut report = Report::default();
        report.by_server.insert("web-1".into(), 7);
        report.errors.insert("ECONNREFUSED".into(), 1);
        let text = line("pod shell", "10.96.0.80:80".parse().unwrap(), "http", &report);
        assert!(text.contains("pod shell") && text.contains("web-1   7") && text.ends_with("ECONNREFUSED 1"), "{text}");
    }
}
