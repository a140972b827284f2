use super::*;

fn of_user(user: &str) -> Result<Option<Identity>, String> {
    of(&Config { user: Some(user.to_owned()), ..Config::default() })
}

#[test]
fn a_user_or_group_that_there_is_not_is_named_with_the_remedy() {
    let told = of_user("no-such-user").unwrap_err();
    assert_eq!(
        told,
        "user: there is no user \"no-such-user\" on this system; create it with `useradd --system no-such-user`"
    );
    let with_group = |user: Option<&str>| {
        of(&Config { user: user.map(str::to_owned), group: Some("no-such-group".to_owned()), ..Config::default() })
    };
    let told = with_group(Some("nobody")).unwrap_err();
    assert!(told.starts_with("group: there is no group \"no-such-group\"") && told.contains("groupadd"), "{told}");
    if User::from_name(DEFAULT_USER).is_ok_and(|user| user.is_none()) {
        let told = with_group(None).unwrap_err();
        assert!(told.contains("name one by `user`"), "{told}");
        assert_eq!(of(&Config::default()), Ok(None));
    }
}

#[test]
fn the_groups_of_its_sockets_are_its_own() {
    if !untested::needs_root(Uid::effective().is_root()) {
        let told = of_user("nobody").unwrap_err();
        assert!(told.contains("the worker cannot run as nobody: virtd must be root for that"), "{told}");
        return;
    }
    assert_eq!(of_user("root"), Ok(None));
    let named = |group: &str| Some(group.to_owned());
    let config = Config {
        user: named("nobody"),
        shim_group: named("daemon"),
        control_group: named("bin"),
        control_ro_group: named("sys"),
        ..Config::default()
    };
    let identity = of(&config).unwrap().unwrap();
    let user = User::from_name("nobody").unwrap().unwrap();
    assert_eq!((identity.uid, identity.gid), (user.uid, user.gid));
    for group in ["daemon", "bin", "sys"] {
        assert!(identity.groups.contains(&group_id(group).unwrap()), "{identity:?}");
    }
    let identity = of(&Config { group: named("daemon"), ..config }).unwrap().unwrap();
    assert_eq!(Some(identity.gid), group_id("daemon"));
}
