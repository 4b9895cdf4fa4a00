//! Figures as people read them: medians with their spread, in tables, and a plot.

use harness::failure::While;
use harness::{Failure, Outcome};
use std::fmt::Write;
use std::path::Path;

/// A median, and the quartiles around it.
#[derive(Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Figure {
    /// Of at least one value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = part * (values.len() - 1) as f64;
            let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Self { median: at(0.5), low: at(0.25), high: at(0.75) }
    }

    /// `12.3 (11.9 to 13.0)`
    pub(crate) fn text(&self, decimals: usize) -> String {
        let Self { median, low, high } = self;
        format!("{median:.decimals$} ({low:.decimals$} to {high:.decimals$})")
    }
}

/// A table in Markdown.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// One group of bars: a case, and each variant's figure.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) bars: Vec<(String, Figure)>,
}

const COLOURS: [(&str, &str); 3] =
    [("native", "#8a8f98"), ("native, unsigned", "#c3c7cd"), ("membrane", "#2f6fde")];
const ROW: f64 = 20.0;
const LEFT: f64 = 210.0;
const WIDTH: f64 = 760.0;

/// Bars with whiskers from the lower to the upper quartile, each group on its own scale: they differ by tens.
pub(crate) fn plot(groups: &[Group]) -> String {
    let rows: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = 60.0 + rows as f64 * ROW + groups.len() as f64 * 28.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\">CPU added to each request, µs (less is better)</text>\n"
    );
    let mut y = 46.0;
    for group in groups {
        let most = group.bars.iter().map(|(_, figure)| figure.high).fold(1.0, f64::max);
        let x = |value: f64| LEFT + value.max(0.0) / most * (WIDTH - LEFT - 90.0);
        let _ = writeln!(svg, "<text x=\"12\" y=\"{}\" font-weight=\"bold\">{}</text>", y + 12.0, group.name);
        y += 20.0;
        for (name, figure) in &group.bars {
            let known = COLOURS.iter().rev().find(|(prefix, _)| name.starts_with(prefix));
            let colour = known.map_or("#2f6fde", |(_, colour)| *colour);
            let (end, middle) = (x(figure.median), y + 8.0);
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>\
                 <rect x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"12\" fill=\"{colour}\"/>\
                 <path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#222\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{:.1}</text>",
                LEFT - 8.0,
                y + 12.0,
                y + 2.0,
                end - LEFT,
                x(figure.low),
                x(figure.high),
                x(figure.high) + 6.0,
                y + 12.0,
                figure.median
            );
            y += ROW;
        }
        y += 8.0;
    }
    svg + "</svg>\n"
}

const BEGIN: &str = "<!-- `make bench` writes from here -->\n";
const END: &str = "<!-- to here -->\n";

/// Puts the figures into the page, in place of those of the last run.
pub(crate) fn keep(page: &Path, figures: &str) -> Outcome<()> {
    let text = std::fs::read_to_string(page).while_(|| format!("reading {}", page.display()))?;
    let around = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) =
        around.ok_or_else(|| Failure::new(format!("{} has no place for figures", page.display())))?;
    std::fs::write(page, [before, BEGIN, "\n", figures, "\n", END, after].concat())
        .while_(|| format!("writing {}", page.display()))
}
