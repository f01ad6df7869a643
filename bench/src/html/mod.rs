//! A report as one page that needs nothing else: no network, no script, no font.
//!
//! The plots are SVG within the page, drawn here; the style follows the reader's choice of light or
//! dark. Colours are those of Okabe and Ito, which the colour-blind tell apart, and lines differ in
//! their dashes too.

mod bars;
mod frame;
mod lines;
mod scale;
mod tables;

use std::fmt::Write;

use crate::Machine;
use crate::mechanism::Wait;
use crate::report::{Class, Cores, Experiment, Plot, Point, Report, Series};
use crate::units::count;

const STYLE: &str = include_str!("style.css");

/// More series than this in one plot are shown in two: those that never sleep, and those that do.
const CROWD: usize = 9;

/// A drawing and what is said about it.
#[derive(Debug)]
struct Figure {
    title: String,
    svg: String,
    caption: String,
}

/// Part of an experiment that fits one plot: one number of cores, one unit, and of many series those
/// that wait alike.
#[derive(Debug)]
struct Panel<'a> {
    cores: Cores,
    unit: &'a str,
    /// What they have in common, if that is not everything.
    group: Option<&'static str>,
    series: Vec<(&'a Series, String)>,
}

impl Panel<'_> {
    fn title(&self) -> String {
        let title = self.cores.title();
        self.group.map_or_else(|| title.to_owned(), |group| format!("{title}: {group}"))
    }

    /// The points of a series that belong here.
    fn points<'s>(&self, series: &'s Series) -> impl Iterator<Item = &'s Point> {
        let (cores, unit) = (self.cores, self.unit.to_owned());
        series.points.iter().filter(move |point| point.cores == cores && point.unit == unit)
    }
}

/// The page.
pub(crate) fn page(report: &Report) -> String {
    let mut out =
        String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    out.push_str("<meta name=\"color-scheme\" content=\"light dark\">\n");
    let _ = write!(
        out,
        "<title>Rendez: the cost of messages on {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escape(&report.machine.cpu_model)
    );
    out.push_str("<header>\n<h1>The cost of messages between processes</h1>\n");
    out.push_str(
        "<p class=\"lead\">What Rendez costs here, beside what Linux offers, beside the least that is \
         possible. All measured in turns, in the same run.</p>\n",
    );
    machine(&mut out, &report.machine, report.quick);
    notes(&mut out, &report.notes);
    how_to_read(&mut out);
    out.push_str("<nav>");
    for experiment in &report.experiments {
        let _ = write!(
            out,
            "<a href=\"#{}\">{}</a>",
            escape(&experiment.name),
            escape(&experiment.title)
        );
    }
    out.push_str("</nav>\n</header>\n");
    for experiment in &report.experiments {
        section(&mut out, experiment);
    }
    out.push_str(
        "<footer>Made by <code>rendez bench --html</code>.</footer>\n</main>\n</body>\n</html>\n",
    );
    out
}

fn machine(out: &mut String, machine: &Machine, quick: bool) {
    let mut facts: Vec<(&str, String)> = vec![
        ("Processor", format!("{} ({})", machine.cpu_model, machine.architecture)),
        ("Linux", machine.linux.clone()),
        (
            "Processors",
            format!(
                "{} online; used: {}",
                machine.cores_online,
                machine.cores_used.iter().map(usize::to_string).collect::<Vec<_>>().join(" and ")
            ),
        ),
        ("Topology", machine.topology.join("; ")),
        (
            "Hypervisor",
            machine.hypervisor.clone().unwrap_or_else(|| "none that shows itself".to_owned()),
        ),
        (
            "Governor",
            machine.governor.clone().unwrap_or_else(|| "none that Linux knows of".to_owned()),
        ),
        (
            "Clock",
            format!(
                "{}; one reading costs {} ns",
                machine.clock_source.as_deref().unwrap_or("unknown"),
                machine.clock_cost_ns
            ),
        ),
        (
            "Run",
            if quick { "quick: few and short blocks, so wider spreads" } else { "full" }.to_owned(),
        ),
    ];
    facts.retain(|(_, fact)| !fact.is_empty());
    out.push_str("<dl class=\"machine\">");
    for (name, fact) in facts {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&fact));
    }
    out.push_str("</dl>\n");
    let active = machine
        .mitigations
        .values()
        .filter(|state| state.contains("Mitigation") || state.contains("Vulnerable"))
        .count();
    let _ = write!(
        out,
        "<details><summary>{} of {} are met or open here: many are paid on each system call</summary>\
         <div class=\"scroll\"><table><tbody>",
        active,
        count(machine.mitigations.len(), "processor flaw"),
    );
    for (flaw, state) in &machine.mitigations {
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"words\">{}</td></tr>",
            escape(flaw),
            escape(state)
        );
    }
    out.push_str("</tbody></table></div></details>\n");
}

fn how_to_read(out: &mut String) {
    out.push_str(
        "<details><summary>How to read this</summary><ul>\
         <li><b>Ratios first.</b> Absolute times move with the machine and the minute. The <i>floor</i> \
         is two processes passing one cache line, measured beside each block: no message through \
         memory can be faster. “1.20 × floor” means a fifth more than that.</li>\
         <li><b>Like with like.</b> What spins is compared with what spins, and what sleeps with what \
         sleeps: waking a halted core costs more than any software. <i>Adaptive</i> spins for a \
         moment, then sleeps, and so is shown beside both.</li>\
         <li><b>Two cores</b>: each side has one. <b>Kept awake</b>: the same, and spinners of idle \
         priority keep both from halting, which leaves the cost of the software. <b>One core</b>: \
         both share it, and every message is a switch; the floor beside them was still measured on \
         two.</li>\
         <li><b>Blocks.</b> Everything is measured in short blocks, in turns. A block during which \
         another guest stole time, or whose two floors disagree, is repeated; the tables say how many \
         were kept.</li>\
         <li><b>“Half within”</b> are the quartiles of the blocks’ ratios: differences smaller than \
         that mean nothing.</li>\
         <li>Rest a pointer on a line, a bar or a dot to see its figures.</li></ul></details>\n",
    );
}

fn notes(out: &mut String, notes: &[String]) {
    if notes.is_empty() {
        return;
    }
    out.push_str("<ul class=\"notes\">");
    for note in notes {
        let _ = write!(out, "<li>{}</li>", escape(note));
    }
    out.push_str("</ul>\n");
}

/// One experiment: its plots, then its figures.
fn section(out: &mut String, experiment: &Experiment) {
    let _ = write!(
        out,
        "<section id=\"{}\">\n<h2>{}</h2>\n<p>{}</p>\n",
        escape(&experiment.name),
        escape(&experiment.title),
        escape(&experiment.question)
    );
    let mut places: Vec<(Cores, &str)> = Vec::new();
    for point in experiment.series.iter().flat_map(|series| &series.points) {
        if !places.contains(&(point.cores, &point.unit)) {
            places.push((point.cores, &point.unit));
        }
    }
    for (cores, unit) in places {
        out.push_str("<div class=\"figures\">\n");
        for panel in panels(experiment, cores, unit) {
            for figure in figures(experiment, &panel) {
                let _ = writeln!(
                    out,
                    "<figure><h3>{}</h3><div class=\"scroll\">{}</div><figcaption>{}</figcaption></figure>",
                    escape(&figure.title),
                    figure.svg,
                    escape(&figure.caption)
                );
            }
        }
        out.push_str("</div>\n");
        let rows: usize = experiment
            .series
            .iter()
            .flat_map(|series| &series.points)
            .filter(|point| point.cores == cores && point.unit == unit)
            .count();
        let _ = writeln!(
            out,
            "<details{}><summary>Figures: {}, {}</summary>{}</details>",
            if rows <= 12 { " open" } else { "" },
            cores.title(),
            count(rows, "row"),
            tables::table(experiment, cores, unit)
        );
    }
    notes(out, &experiment.notes);
    out.push_str("</section>\n");
}

fn figures(experiment: &Experiment, panel: &Panel<'_>) -> Vec<Figure> {
    let drawn = match experiment.plot {
        Plot::Lines => {
            let medians =
                lines::medians(experiment, panel).or_else(|| bars::bars(experiment, panel));
            // With the payload, processor time says little that the median does not.
            let cpu = experiment
                .axis
                .as_ref()
                .filter(|axis| axis.name != "payload")
                .and_then(|_| lines::processor_time(experiment, panel));
            vec![medians, lines::distribution(experiment, panel), cpu]
        }
        Plot::Bars => vec![bars::bars(experiment, panel), lines::distribution(experiment, panel)],
        Plot::Stack => vec![bars::stacks(panel)],
    };
    drawn.into_iter().flatten().collect()
}

/// The panels for that number of cores and that unit.
fn panels<'a>(experiment: &'a Experiment, cores: Cores, unit: &'a str) -> Vec<Panel<'a>> {
    let all: Vec<(&Series, String)> = lines::styled(experiment)
        .into_iter()
        .filter(|(series, _)| {
            series.points.iter().any(|point| point.cores == cores && point.unit == unit)
        })
        .collect();
    if all.len() <= CROWD {
        return vec![Panel { cores, unit, group: None, series: all }];
    }
    let among = |wanted: &dyn Fn(&Series) -> bool| -> Vec<(&Series, String)> {
        all.iter()
            .filter(|(series, _)| series.class == Class::Floor || wanted(series))
            .map(|(series, class)| (*series, class.clone()))
            .collect()
    };
    let adaptive = |series: &Series| series.wait == Some(Wait::Adaptive);
    let spin = among(&|series| series.wait == Some(Wait::Spin) || adaptive(series));
    let sleep = among(&|series| series.wait != Some(Wait::Spin));
    [("what never sleeps, and adaptive", spin), ("what sleeps, and adaptive", sleep)]
        .into_iter()
        .filter(|(_, series)| series.iter().any(|(series, _)| series.class != Class::Floor))
        .map(|(group, series)| Panel { cores, unit, group: Some(group), series })
        .collect()
}

/// Text as it may stand anywhere in the page, attributes included.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::page;
    use crate::report::samples::report;

    /// The names of all elements, in the order in which they begin, if they are nested rightly.
    fn elements(page: &str) -> Vec<String> {
        const WITHOUT_END: [&str; 2] = ["meta", "!DOCTYPE"];
        let mut open: Vec<&str> = Vec::new();
        let mut all = Vec::new();
        let mut rest = page;
        while let Some(at) = rest.find('<') {
            let end = rest[at..].find('>').map(|length| at + length).expect("every tag ends");
            let tag = &rest[at + 1..end];
            assert!(!tag.contains('<'), "a tag within a tag: {tag}");
            assert_eq!(tag.matches('"').count() % 2, 0, "an attribute without an end: {tag}");
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "ended where it is not the innermost");
            } else {
                all.push(name.to_owned());
                if !tag.ends_with('/') && !WITHOUT_END.contains(&name) {
                    open.push(name);
                }
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty(), "never ended: {open:?}");
        all
    }

    #[test]
    fn elements_are_nested_and_there_is_a_plot_for_each_kind() {
        let page = page(&report());
        let all = elements(&page);
        let number = |name: &str| all.iter().filter(|element| *element == name).count();
        assert_eq!(number("section"), 4);
        assert!(number("svg") >= 6, "lines and tails on two kinds of cores, bars, a stack");
        assert_eq!(number("svg"), number("figcaption"));
        assert!(number("table") >= 5);
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page(&report());
        for outside in ["http:", "https:", "//", "url(", "@import", "<script", "<link", "src="] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
        assert!(page.contains("width=device-width"));
    }

    #[test]
    fn text_of_others_stays_text() {
        let page = page(&report());
        assert!(page.contains("left out &lt;b&gt;because&lt;/b&gt; &amp; so on"));
        assert!(page.contains("Model &quot;A&quot; &lt;1&gt;"));
    }

    #[test]
    fn numbers_of_the_page_are_finite() {
        let page = page(&report());
        for wrong in ["NaN", "inf"] {
            let attribute = format!("\"{wrong}");
            assert!(!page.contains(&attribute) && !page.contains(&format!(" {wrong} ")), "{wrong}");
        }
    }

    #[test]
    fn an_empty_report_is_a_page_too() {
        let mut report = report();
        report.experiments.clear();
        elements(&page(&report));
    }
}
