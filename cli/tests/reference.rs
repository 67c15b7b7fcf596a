//! `cli/doc/reference.md` is what the command line itself says; `WSGUARD_BLESS=1` writes it anew.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, Command};

#[test]
fn committed_reference_is_what_the_command_line_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("doc/reference.md");
    let generated = reference();
    if std::env::var_os("WSGUARD_BLESS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "{} is out of date; rewrite it with `WSGUARD_BLESS=1 cargo test -p wsguard --test reference`",
        path.display()
    );
}

#[test]
fn every_command_has_examples_and_exit_codes() {
    for command in all_commands(&root()) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("EXAMPLES:"), "{} has no examples", command.get_name());
        assert!(help.contains("EXIT CODES:"), "{} has no exit codes", command.get_name());
        assert!(command.get_about().is_some(), "{} has no description", command.get_name());
    }
}

#[test]
fn every_option_says_what_it_is_for() {
    let root = root();
    for command in all_commands(&root).into_iter().chain([&root]) {
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
    }
}

fn root() -> Command {
    let mut root = wsguard::args::command();
    root.build();
    root
}

fn visible_commands(root: &Command) -> Vec<&Command> {
    root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help").collect()
}

/// Commands and those below them.
fn all_commands(root: &Command) -> Vec<&Command> {
    visible_commands(root)
        .into_iter()
        .flat_map(|command| std::iter::once(command).chain(all_commands(command)))
        .collect()
}

fn reference() -> String {
    let root = root();
    let mut text = String::from("# wsguard: command reference\n\n");
    text.push_str("Made from the command line itself (`cli/tests/reference.rs`); do not edit by hand.\n\n");
    writeln!(text, "{}.\n", root.get_about().unwrap()).unwrap();
    text.push_str("| command | |\n|---|---|\n");
    for command in visible_commands(&root) {
        let name = command.get_name();
        writeln!(text, "| [`wsguard {name}`](#wsguard-{name}) | {} |", command.get_about().unwrap()).unwrap();
    }
    text.push_str("\n## Options of every command\n\n");
    push_arguments(&mut text, &global_arguments(&root));
    text.push_str("\nAn option wins over its environment variable, which wins over the config file.\n");
    text.push_str("\n## Exit codes\n\n| code | meaning |\n|---|---|\n");
    for status in wsguard::error::ExitStatus::ALL {
        writeln!(text, "| {} | {} |", status.code(), status.meaning()).unwrap();
    }
    text.push_str(
        "\n6 is kept for \"no capacity\". With `--json` an error is one object on stdout with `schema`, `code`, \
         `exit_code`, `message` and, if there are any, `causes` and `hint`; the text for people stays on stderr.\n",
    );
    for command in visible_commands(&root) {
        push_command(&mut text, command, "wsguard");
    }
    text
}

fn global_arguments(root: &Command) -> Vec<&Arg> {
    root.get_arguments().filter(|argument| argument.is_global_set()).collect()
}

/// A command, then those below it.
fn push_command(text: &mut String, command: &Command, parent: &str) {
    let name = format!("{parent} {}", command.get_name());
    writeln!(text, "\n## {name}\n").unwrap();
    let about = command.get_long_about().or(command.get_about()).unwrap().to_string();
    let (first, rest) = about.split_once("\n\n").unwrap_or((&about, ""));
    writeln!(text, "{first}.").unwrap();
    if !rest.is_empty() {
        writeln!(text, "\n{rest}").unwrap();
    }
    let aliases: Vec<String> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        writeln!(text, "\nAlso: {}.", aliases.join(", ")).unwrap();
    }
    let own =
        |argument: &&Arg| !argument.is_global_set() && !argument.is_hide_set() && argument.get_id() != "help";
    let arguments: Vec<&Arg> = command.get_arguments().filter(own).collect();
    if !arguments.is_empty() {
        text.push('\n');
        push_arguments(text, &arguments);
    }
    if let Some(help) = command.get_after_help() {
        writeln!(text, "\n```text\n{}\n```", help.to_string().trim_end()).unwrap();
    }
    for below in visible_commands(command) {
        push_command(text, below, &name);
    }
}

fn push_arguments(text: &mut String, arguments: &[&Arg]) {
    text.push_str("| argument | |\n|---|---|\n");
    for argument in arguments {
        writeln!(text, "| `{}` | {} |", signature(argument), meaning(argument)).unwrap();
    }
}

fn signature(argument: &Arg) -> String {
    let values = argument.get_value_names().unwrap_or_default();
    let value = values.first().map(|name| name.replace('|', "\\|"));
    let takes_value = argument.get_action().takes_values();
    let mut names = Vec::new();
    names.extend(argument.get_short().map(|short| format!("-{short}")));
    names.extend(argument.get_long().map(|long| format!("--{long}")));
    match (names.is_empty(), value) {
        (true, value) => value.unwrap_or_default(),
        (false, Some(value)) if takes_value => format!("{} {value}", names.join(", ")),
        (false, _) => names.join(", "),
    }
}

fn meaning(argument: &Arg) -> String {
    let mut text = argument.get_help().unwrap().to_string();
    let values: Vec<String> =
        argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if argument.get_action().takes_values() && !values.is_empty() {
        write!(text, "; one of {}", values.join(", ")).unwrap();
    }
    if argument.get_action().takes_values()
        && let Some(default) = argument.get_default_values().first()
    {
        write!(text, "; default `{}`", default.to_string_lossy()).unwrap();
    }
    if let Some(variable) = argument.get_env() {
        write!(text, "; environment `{}`", variable.to_string_lossy()).unwrap();
    }
    text.replace('\n', " ")
}
