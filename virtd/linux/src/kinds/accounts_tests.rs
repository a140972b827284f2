use super::*;

fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    let passwd =
        "root:x:0:0::/root:/bin/sh\nbroken\nfrr:x:4105:4109:Frr,,,:/nonexistent:/usr/sbin/nologin\nodd:x:many:1::/:\n";
    fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
    fs::write(dir.path().join("etc/group"), "root:x:0:\nfrr:x:4109:\nfrrvty:x:4108:frr\n").unwrap();
    dir
}

#[test]
fn a_root_has_numbers_of_its_own() {
    let dir = root();
    let accounts = Accounts(Some(dir.path()));
    let frr = accounts.user("frr").unwrap();
    assert_eq!(frr, Account { uid: 4105, gid: 4109, home: "/nonexistent".into() });
    assert_eq!(accounts.group("frrvty").unwrap(), 4108);
    assert_eq!((accounts.group_name(4109).as_deref(), accounts.group_name(9)), (Some("frr"), None));
    assert_eq!(Accounts(None).user("root").unwrap().uid, 0);
}

#[test]
fn what_is_missing_is_named_with_the_remedy() {
    let dir = root();
    let (accounts, etc) = (Accounts(Some(dir.path())), dir.path().join("etc").display().to_string());
    for name in ["_openbgpd", "odd", "broken", ""] {
        let text = accounts.user(name).unwrap_err().to_string();
        let expected = format!(
            "there is no user {name:?} in {etc}/passwd; `getent passwd {name} >>{etc}/passwd` copies this system's"
        );
        assert_eq!(text, expected);
    }
    let text = accounts.group("bird").unwrap_err().to_string();
    assert!(text.starts_with(&format!("there is no group \"bird\" in {etc}/group; ")), "{text}");
    let empty = tempfile::tempdir().unwrap();
    let text = Accounts(Some(empty.path())).user("frr").unwrap_err().to_string();
    assert!(text.starts_with(&format!("{}/etc/passwd: No such file", empty.path().display())), "{text}");
}
