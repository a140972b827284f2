use super::*;
use virtd_master::link::file_of;

#[test]
fn nobody_waits_for_a_master_that_is_gone() {
    let (master, messages) = Master::new(Path::new("virtd.toml"));
    assert!(master.order(InstanceId(1), Order::Start).is_ok());
    assert_eq!(messages.try_recv().map(|(message, _)| message), Ok(ToMaster::Order { index: 1, order: Order::Start }));
    let reading = std::thread::spawn({
        let master = master.clone();
        move || master.read(false)
    });
    assert_eq!(messages.recv().map(|(message, _)| message), Ok(ToMaster::Read { id: 1, dry_run: false }));
    master.has_gone();
    assert!(reading.join().unwrap().unwrap_err().contains("master"));
    assert!(master.order(InstanceId(1), Order::Start).is_err());
    assert!(master.read(true).is_err());
}

#[test]
fn a_configuration_comes_as_the_text_that_the_master_has_read() {
    let (master, messages) = Master::new(Path::new("virtd.toml"));
    let reading = std::thread::spawn({
        let master = master.clone();
        move || master.read(false)
    });
    assert_eq!(messages.recv().map(|(message, _)| message), Ok(ToMaster::Read { id: 1, dry_run: false }));
    let text = "[router]\naccept_any = true\n[[instance]]\nname = \"frr\"\n";
    master.answer(1, Ok(file_of(text).unwrap()));
    let (id, config) = reading.join().unwrap().unwrap();
    assert_eq!((id, config.instances[0].name.as_str()), (1, "frr"));
}

#[test]
fn the_third_death_within_a_minute_is_an_alarm_of_its_own() {
    let died =
        |deaths| Died { pid: 5, how: "was ended by SIGSEGV".into(), ran_ms: 1500, deaths, faults: 1, by_fault: true };
    let kinds = |deaths| obituary(&died(deaths), 0).iter().map(|e| e.kind).collect::<Vec<_>>();
    assert_eq!((kinds(2), kinds(3)), (vec!["worker-died"], vec!["worker-died", "worker-dies"]));
    let text = &obituary(&died(1), 0)[0].text;
    assert!(text.contains("process 5) was ended by SIGSEGV, after 1.5 s"), "{text}");
}
