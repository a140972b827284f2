use super::*;
use crate::Config;
use crate::parse::parse;
use crate::summary::summary;
use std::path::Path;

const GOOD: &str = "[router]\naccept_any = true\n[[instance]]\nname = \"frr\"\n";

fn read(section: &str) -> Result<Config, String> {
    parse(Path::new("virtd.toml"), &format!("{GOOD}{section}")).map_err(|e| e.to_string())
}

#[test]
fn every_key_has_its_meaning_and_its_default() {
    let config = read("").expect("good");
    assert!(config.alerts.is_empty() && config.syslog.is_none() && config.journald.is_none());
    let all = "[[alert]]\nevents = [\"poison\", \"instance-faulty\"]\nseverity = \"warning\"\n\
               command = [\"/bin/page\", \"noc\"]\nat_most = 3\ntimeout_s = 5\n\
               [[alert]]\nseverity = \"alarm\"\nurl = \"http://[2001:db8::1]:8080/hook?to=noc\"\n\
               [syslog]\ntarget = \"tcp://loghost\"\nfacility = \"local3\"\nseverity = \"warning\"\n\
               [journald]\nsocket = \"/run/other\"\nseverity = \"alarm\"\n";
    let config = read(all).expect("good");
    let [first, second] = config.alerts.as_slice() else { panic!("{:?}", config.alerts) };
    assert_eq!(first.events, ["poison", "instance-faulty"]);
    assert_eq!((first.severity, first.at_most, first.timeout), (Level::Warning, 3, Duration::from_secs(5)));
    assert_eq!(first.hook, Hook::Command(vec!["/bin/page".into(), "noc".into()]));
    assert_eq!((second.events.len(), second.at_most, second.timeout), (0, 10, Duration::from_secs(10)));
    let Hook::Url(url) = &second.hook else { panic!("{second:?}") };
    assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("2001:db8::1", 8080, "/hook?to=noc"));
    assert_eq!(url.to_string(), "http://[2001:db8::1]:8080/hook?to=noc");
    let syslog = Syslog { target: Target::Tcp("loghost".into(), 514), facility: 19, severity: Level::Warning };
    assert_eq!(config.syslog, Some(syslog));
    assert_eq!(config.journald, Some(Journald { socket: "/run/other".into(), severity: Level::Alarm }));
    let said = summary(&config);
    for part in [
        "alert           poison and instance-faulty, from warning on: runs /bin/page, at most 3 a minute\n",
        "alert           all from alarm on: posts to http://[2001:db8::1]:8080/hook?to=noc, at most 10 a minute\n",
        "syslog          all from warning on, to tcp://loghost:514\n",
        "journald        all from alarm on, to /run/other\n",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    let config = read("[syslog]\n[journald]\n").expect("good");
    let syslog = Syslog { target: Target::Local("/dev/log".into()), facility: 3, severity: Level::Info };
    assert_eq!(config.syslog, Some(syslog));
    assert_eq!(config.journald.expect("journald").socket, Path::new("/run/systemd/journal/socket"));
}

#[test]
fn what_is_wrong_is_named_with_the_remedy() {
    let alert = |keys: &str| format!("[[alert]]\nseverity = \"alarm\"\n{keys}\n");
    let hook = "command = [\"/bin/true\"]\n";
    for (section, words) in [
        (format!("[[alert]]\n{hook}"), ["does not say on which events", "severity = \"alarm\""]),
        (alert(""), ["does not say what to do", "command = "]),
        (alert(&format!("{hook}url = \"http://a/\"")), ["a `command` and a `url`", "a second [[alert]]"]),
        (
            alert(&format!("{hook}events = [\"instance-fault\"]")),
            ["no kind of event `instance-fault`", "did you mean `instance-faulty`?"],
        ),
        (
            alert(&format!("{hook}events = [\"verdict\"]")),
            ["no kind of event `verdict`", "\"Events\", has all of them"],
        ),
        (alert(&format!("{hook}events = [\"poison\", \"poison\"]")), ["`poison` is listed twice", "leave it out"]),
        (alert(&format!("{hook}events = []")), ["`events` names none", "leave the key out"]),
        (alert(&format!("{hook}events = \"poison\"")), ["`events` is text", "expected an array of kinds"]),
        (alert(&format!("{hook}at_most = 0")), ["`at_most` is out of range", "from 1 to 600 a minute"]),
        (alert(&format!("{hook}timeout_s = 301")), ["`timeout_s` is out of range", "from 1 to 300 seconds"]),
        (alert(&format!("{hook}timeout = 1")), ["unknown key `timeout` in [[alert]]", "`timeout_s`"]),
        (alert("command = [\"page\"]"), ["`page` is not an absolute path", "starts with /"]),
        (alert("command = []"), ["`command` is empty", "a program and its arguments"]),
        (alert("command = \"/bin/true\""), ["`command` is text", "a program and its arguments"]),
        (alert("url = \"https://192.0.2.1/\""), ["is for HTTPS", "curl"]),
        (alert("url = \"192.0.2.1\""), ["no place for HTTP", "http://192.0.2.1:8080/hook"]),
        (alert("url = \"http://\""), ["no place for HTTP", "expected"]),
        (alert("url = \"http://a:0/\""), ["no place for HTTP", "expected"]),
        (alert("url = \"http://a b/\""), ["no place for HTTP", "expected"]),
        (alert("url = \"http://a/\\u0001\""), ["no place for HTTP", "expected"]),
        (alert("url = \"http://user@a/\""), ["no place for HTTP", "expected"]),
        (format!("[[alert]]\nseverity = \"bad\"\n{hook}"), ["`bad` is not a value of `severity`", "`alarm`"]),
        ("[alert]\nseverity = \"alarm\"\n".to_owned(), ["`alert` is not a list", "[[alert]]"]),
        (alert(hook).repeat(17), ["17 alerts are too many", "at most 16"]),
        ("[[syslog]]\n".to_owned(), ["`syslog` is not a section", "[syslog]"]),
        ("[syslog]\ntarget = \"loghost\"\n".to_owned(), ["nowhere that syslog goes", "udp://192.0.2.1:514"]),
        ("[syslog]\ntarget = \"udp://a:b\"\n".to_owned(), ["nowhere that syslog goes", "expected"]),
        ("[syslog]\ntarget = 514\n".to_owned(), ["`target` is a whole number", "expected"]),
        ("[syslog]\nfacility = \"deamon\"\n".to_owned(), ["is not a value of `facility`", "did you mean `daemon`?"]),
        ("[journald]\nsocket = \"journal\"\n".to_owned(), ["`socket` is not an absolute path", "starts with /"]),
        ("[journal]\n".to_owned(), ["unknown section or key `journal`", "did you mean `[journald]`?"]),
        ("[alerts]\n".to_owned(), ["unknown section or key `alerts`", "did you mean `[[alert]]`?"]),
        ("[router2]\nat_most = 3\n".to_owned(), ["unknown section or key `router2`", "`[router]`"]),
    ] {
        let said = read(&section).expect_err(&section);
        assert!(words.iter().all(|word| said.contains(word)), "{section}: {said}");
    }
}

#[test]
fn an_event_of_a_severity_that_there_is_not_is_told_as_the_worst() {
    assert_eq!(
        ["info", "warning", "alarm", "catastrophe"].map(Level::of),
        [Level::Info, Level::Warning, Level::Alarm, Level::Alarm]
    );
    assert_eq!(Level::Warning.word(), "warning");
}
