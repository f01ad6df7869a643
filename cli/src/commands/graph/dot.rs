//! The graph in the DOT language of Graphviz: tasks are boxes, endpoints ellipses, capabilities thin
//! lines, waits dashed ones, those of a circle red.

use super::model::{Graph, WaitEdge};
use crate::commands::ps::duration;
use crate::output::printable;
use std::fmt::Write;

/// A string of the language. Backslashes are doubled too, since labels give them a meaning.
fn quoted(text: &str) -> String {
    let escaped = printable(text).replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

fn task(number: &str) -> String {
    format!("\"task {number}\"")
}

fn endpoint(number: u64) -> String {
    format!("\"endpoint {number}\"")
}

/// The whole document.
pub(super) fn document(graph: &Graph) -> String {
    let mut text = String::from(
        "digraph rendez {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n",
    );
    // Writing to a string does not fail.
    let mut line = |arguments: std::fmt::Arguments<'_>| _ = writeln!(text, "  {arguments};");
    for node in &graph.tasks {
        let label = format!("{} {}", node.name, node.task);
        let full = if node.receivers != 0 && node.free == 0 { ", style=bold" } else { "" };
        line(format_args!("{} [shape=box, label={}{full}]", task(&node.task), quoted(&label)));
    }
    for node in &graph.endpoints {
        let speaks = node.interface.as_deref().map(|it| format!(": {it}")).unwrap_or_default();
        let label = format!("endpoint {}{speaks}", node.endpoint);
        let id = endpoint(node.endpoint);
        line(format_args!("{id} [shape=ellipse, label={}]", quoted(&label)));
        if let Some(server) = &node.server {
            line(format_args!("{id} -> {} [arrowhead=none, penwidth=2]", task(server)));
        }
    }
    for edge in &graph.capabilities {
        let to = match (edge.kind, &edge.to) {
            ("endpoint", _) => endpoint(edge.object),
            ("task", Some(to)) => task(to),
            _ => format!("\"{} {}\"", edge.kind, edge.object),
        };
        let badge = if edge.badge == 0 { String::new() } else { format!(" badge {}", edge.badge) };
        let count = if edge.count == 1 { String::new() } else { format!(" ×{}", edge.count) };
        let label = quoted(&format!("{}{badge}{count}", edge.rights));
        let from = task(&edge.holder);
        line(format_args!("{from} -> {to} [color=gray, fontcolor=gray, label={label}]"));
    }
    for edge in &graph.waits {
        line(format_args!("{} -> {} [{}]", task(&edge.task), task(&edge.on), wait(edge)));
    }
    text.push('}');
    text
}

/// How a wait is drawn.
fn wait(edge: &WaitEdge) -> String {
    let left = edge.left_ms.map_or("no deadline".into(), |left| format!("{} left", duration(left)));
    let label = quoted(&format!("waits {} ({left})", duration(edge.for_ms)));
    let colour = if edge.circle.is_some() { "red" } else { "orange" };
    let width = if edge.circle.is_some() { 3 } else { 1 };
    format!("style=dashed, color={colour}, fontcolor={colour}, penwidth={width}, label={label}")
}
