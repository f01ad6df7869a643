//! What changed between two reports, for a terminal.

use crate::compare::{Change, Changes, Verdict};
use crate::paint::{BOLD, DIM, NOTE, OURS, Paint, WORSE, line};
use crate::units::{count, short, value};

/// The changes as a table, the summary last.
pub(crate) fn table(changes: &Changes, color: bool) -> String {
    let paint = Paint(color);
    let mut out = String::new();
    for warning in &changes.warnings {
        line(&mut out, &paint.with(NOTE, &format!("Warning: {warning}")));
    }
    let width = |cell: fn(&Change) -> usize| changes.changes.iter().map(cell).max().unwrap_or(0);
    let names = width(|change| change.series.chars().count());
    let places = width(|change| change.at.chars().count());
    // "× " before what it is by, and two blanks behind.
    let bys = width(|change| change.against.as_ref().map_or(5, |to| to.chars().count() + 2)) + 2;
    let mut section = None;
    for change in &changes.changes {
        let here = (change.experiment.as_str(), change.cores);
        if section != Some(here) {
            section = Some(here);
            line(&mut out, "");
            let title = format!("{}, {}", change.experiment, change.cores.title());
            line(&mut out, &paint.with(BOLD, &title));
            let head = format!(
                "  {:names$}  {:places$}{:>12}{:>12}{:>9}  {:<15}{:<bys$}",
                "", "", "A", "B", "B/A", "may be", "by"
            );
            line(&mut out, &paint.with(DIM, &head));
        }
        let (style, mark) = match change.verdict {
            Verdict::Same => (None, ""),
            Verdict::Better => (Some(OURS), "better"),
            Verdict::Worse => (Some(WORSE), "worse"),
        };
        let spread = change.spread.map_or_else(
            || "–".to_owned(),
            |[low, high]| format!("{}–{}", short(low), short(high)),
        );
        let against =
            change.against.as_ref().map_or_else(|| "value".to_owned(), |to| format!("× {to}"));
        let ratio = format!("{:>9}", short(change.ratio));
        line(
            &mut out,
            &format!(
                "  {:names$}  {:places$}{:>12}{:>12}{}  {spread:<15}{against:<bys$}{}",
                change.series,
                change.at,
                value(&change.unit, change.first),
                value(&change.unit, change.second),
                style.map_or_else(|| ratio.clone(), |style| paint.with(style, &ratio)),
                style.map_or_else(String::new, |style| paint.with(style, mark)),
            ),
        );
    }
    line(&mut out, "");
    let explained = "B/A by ratios to what was measured beside, where both reports have them: times of \
                     two runs say little. “May be”: by the quartiles of both.";
    line(&mut out, &paint.with(DIM, explained));
    for (whose, missing) in [("A", &changes.only_first), ("B", &changes.only_second)] {
        if !missing.is_empty() {
            let text = format!("Note: only in {whose}: {}", missing.join("; "));
            line(&mut out, &paint.with(NOTE, &text));
        }
    }
    let summary = if changes.changes.is_empty() {
        "Nothing to compare: the reports have no point in common.".to_owned()
    } else {
        format!(
            "{} compared: {} better, {} worse, beyond the spread and a tenth.",
            count(changes.changes.len(), "point"),
            changes.count(Verdict::Better),
            changes.count(Verdict::Worse),
        )
    };
    line(&mut out, &paint.with(BOLD, &summary));
    out
}

#[cfg(test)]
mod tests {
    use crate::compare::Changes;
    use crate::compare::tests::changed;
    use crate::report::samples::report;

    #[test]
    fn columns_are_aligned_and_changes_marked() {
        let changes = Changes::between(&report(), &changed());
        let text = changes.table(false);
        assert!(!text.contains('\u{1b}'), "no colour unless asked for");
        assert!(changes.table(true).contains('\u{1b}'));
        let ends = |line: &str| line.chars().take_while(|letter| *letter != '×').count();
        let rows: Vec<usize> =
            text.lines().filter(|line| line.contains("× floor")).map(ends).collect();
        assert!(rows.len() >= 6 && rows.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        let worse = text.lines().filter(|line| line.ends_with("worse")).count();
        assert_eq!(worse, 2, "{text}");
        assert!(text.contains("only in A: capabilities rendez (1 of 2 points)"), "{text}");
        assert!(
            text.trim_end().ends_with("1 better, 2 worse, beyond the spread and a tenth."),
            "{text}"
        );
    }

    #[test]
    fn nothing_in_common_is_said() {
        let mut empty = report();
        empty.experiments.clear();
        let text = Changes::between(&report(), &empty).table(false);
        assert!(text.contains("no point in common"), "{text}");
    }
}
