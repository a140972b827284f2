//! `version` of an instance: another release's daemon by its name, which `hv-versions fetch` has
//! put below `versions` of `[router]`.

use super::reader::{Problems, Section};
use super::{Config, Instance, Kind};
use std::path::{Path, PathBuf};
use toml::de::DeValue;

/// Where `hv-versions` puts versions, and virtd looks for them, unless told otherwise.
pub const DEFAULT_VERSIONS: &str = "/var/lib/virtd/versions";
/// The program that brings a version.
const FETCH: &str = "hv-versions";

/// Reads `version` of an instance: a name, or a folder's absolute path. What goes with it is
/// checked here, too.
pub(super) fn read(section: &Section<'_>, problems: &mut Problems) -> Option<String> {
    let expected = "a release, like \"bullseye\", with its package where that is not the usual one, like \"trixie/bird3\", or a folder's absolute path";
    let given = section.text("version", expected, problems)?;
    let mut refuse = |message: String, help: &str| problems.at(section.span_of("version"), message, help);
    if section.value("kind").is_none() {
        refuse("`version` without `kind` has no effect".into(), "it says which daemon of that kind virtd starts");
    } else if section.value("root").is_some() {
        refuse(
            "`version` and `root` exclude each other".into(),
            "a version is a root with a name; leave one of the two out",
        );
    }
    let system = given.starts_with('/') && Path::new(given).components().count() < 2;
    if system {
        refuse("`version` is the system's own root".into(), "leave it out for the installed version");
    } else if !given.starts_with('/') && !is_name(given) {
        refuse(format!("`{given}` cannot be a version"), &format!("expected {expected}"));
    } else if let Some(other) = other_kind(given, section) {
        refuse(format!("`{given}` is {other}"), "leave the package out, or name one of this kind");
    } else {
        return Some(given.to_owned());
    }
    None
}

/// RELEASE or RELEASE/PACKAGE: it becomes a path, and stands in a command that a person may copy.
fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let part = |p: &str| p.starts_with(|c: char| c.is_ascii_alphanumeric()) && p.chars().all(allowed);
    let mut parts = text.split('/');
    parts.by_ref().take(2).all(part) && parts.next().is_none()
}

/// The kind that a named package is obviously of, where the instance is of another.
fn other_kind(version: &str, section: &Section<'_>) -> Option<&'static str> {
    let (_, package) = version.split_once('/').filter(|(release, _)| !release.is_empty())?;
    let of = [Kind::Frr, Kind::Bird, Kind::OpenBgpd].into_iter().find(|k| package.starts_with(k.name()))?;
    let DeValue::String(kind) = section.value("kind")?.get_ref() else { return None };
    (kind != of.name()).then_some(of.name())
}

/// Gives every instance with a version its root.
pub(super) fn resolve(config: &mut Config) {
    let versions = config.versions.clone();
    for instance in &mut config.instances {
        if let Some(root) = root(instance, &versions) {
            instance.root = Some(root);
        }
    }
}

fn root(instance: &Instance, versions: &Path) -> Option<PathBuf> {
    let version = instance.version.as_deref()?;
    // A path from the root stands for itself (Path::join).
    Some(versions.join(full_name(version, instance.kind?)))
}

/// With the package that a kind has in most releases.
fn full_name(version: &str, kind: Kind) -> String {
    if version.contains('/') {
        return version.to_owned();
    }
    let package = match kind {
        Kind::Frr => "frr",
        Kind::Bird => "bird2",
        Kind::OpenBgpd => "openbgpd",
    };
    format!("{version}/{package}")
}

/// The command that brings an instance's version; `None` for one that has no name to be fetched by.
pub fn fetch_command(config: &Config, instance: &Instance) -> Option<String> {
    let version = instance.version.as_deref().filter(|v| !v.starts_with('/'))?;
    let name = full_name(version, instance.kind?);
    let elsewhere = config.versions != Path::new(DEFAULT_VERSIONS);
    let folder = if elsewhere { format!(" --folder {}", config.versions.display()) } else { String::new() };
    Some(format!("{FETCH}{folder} fetch {name}"))
}
