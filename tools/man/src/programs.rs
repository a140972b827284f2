//! The pages of the programs.

use crate::roff::{escape, line};
use crate::{blocks, see_also, title};
use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;

/// What `hv-versions --help` prints is in itself.
const VERSIONS: &str = include_str!("../../hv-versions");

const OTHERS: [(&str, u8); 6] =
    [("virtd", 8), ("virtctl", 8), ("virtd.toml", 5), ("virtd-monitor", 8), ("hv-replay", 1), ("hv-versions", 1)];

/// Of those that have a command line of clap's, with the sub-commands of virtctl.
pub(crate) fn pages(date: &str) -> Result<Vec<(String, String)>> {
    // With what each says to --version, which is known to the program alone.
    let versioned = |command: Command| command.version(env!("CARGO_PKG_VERSION"));
    let virtctl = versioned(virtd::ctl::arguments::Arguments::command());
    let mut pages = vec![
        page(versioned(virtd::arguments::Arguments::command()), 8, date)?,
        page(versioned(virtd_monitor::arguments::Arguments::command()), 8, date)?,
        page(versioned(hv_replay::command_line::command()), 1, date)?,
        page(virtctl.clone(), 8, date)?,
    ];
    // With the options that all have.
    let mut built = virtctl.disable_help_subcommand(true);
    built.build();
    for command in built.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages.push(page(command.clone(), 8, date)?);
    }
    Ok(pages)
}

fn page(command: Command, section: u8, date: &str) -> Result<(String, String)> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let extra = command.get_after_long_help().or_else(|| command.get_after_help()).map(ToString::to_string);
    let has_commands = command.has_subcommands();
    let man = Man::new(command).section(section.to_string());
    let mut text = Vec::new();
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_commands {
        man.render_subcommands_section(&mut text)?;
    }
    let mut text = title(&name, section, date) + &without_double_breaks(&String::from_utf8(text)?);
    if let Some(extra) = extra {
        text += &format!(".SH EXAMPLES AND MORE\n{}", blocks::roff(&extra));
    }
    let others: Vec<(&str, u8)> = OTHERS.into_iter().filter(|(other, _)| *other != name).collect();
    text += &see_also(&others);
    Ok((format!("{name}.{section}"), text))
}

/// hv-versions(1).
pub(crate) fn versions(date: &str) -> Result<(String, String)> {
    let (_, help) = VERSIONS.split_once("usage() {\n    cat <<'END'\n").context("hv-versions has no usage")?;
    let (help, _) = help.split_once("\nEND\n").context("the usage of hv-versions does not end")?;
    let (first, help) = help.split_once('\n').context("the usage of hv-versions is one line")?;
    let (name, what) = first.split_once(": ").context("the usage of hv-versions does not say what it is")?;
    let mut text = title(name, 1, date);
    text += &format!(".SH NAME\n{} \\- {}\n", escape(name), escape(what));
    text += ".SH SYNOPSIS\n";
    let (synopsis, help) = help.trim_start().split_once("\n\n").context("the usage of hv-versions has no synopsis")?;
    for (n, l) in synopsis.lines().enumerate() {
        text += if n == 0 { "" } else { ".br\n" };
        text += &line(&escape(l.trim()));
    }
    text += &format!(".SH DESCRIPTION\n{}", blocks::roff(help));
    text += &see_also(&OTHERS[..3]);
    Ok((format!("{name}.1"), text))
}

/// A blank line ends a line as well: clap_mangen says both.
fn without_double_breaks(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let blank = |at: Option<usize>| at.and_then(|at| lines.get(at)).is_some_and(|l| l.is_empty() || *l == ".sp");
    let needed = |(at, l): &(usize, &&str)| **l != ".br" || !blank(at.checked_sub(1)) && !blank(Some(at + 1));
    lines.iter().enumerate().filter(needed).map(|(_, l)| format!("{l}\n")).collect()
}
