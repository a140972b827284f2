//! Protocol diversity (papers/001 section 2.3): OSPF in one instance, IS-IS in another, RIP in a third, none of which has a BGP session, and
//! one FIB out of what they say.

use anyhow::{Result, ensure};
use std::time::Duration;
use tests::daemons::Attach;
use tests::fib::{kernel, wait_state};
use tests::igp::{Igp, Routes, Speaker, alone, shortest, triangle};
use tests::lab::{Lab, Star, wait_until};
use tests::router::{Options, Router};

const SETTLE: Duration = Duration::from_secs(120);

struct Scene {
    lab: Lab,
    star: Star,
    router: Router,
    instances: Vec<Speaker>,
    /// Kept for their end.
    _neighbours: Vec<Speaker>,
}

impl Scene {
    /// The network with its neighbours; `natively` is run in it before virtd is.
    fn new(name: &str, natively: impl FnOnce(&Lab, &Star) -> Result<()>) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = triangle(&mut lab)?;
        let neighbours = star.sites.iter().map(|site| Speaker::neighbour(&lab, &site.ns, site.number));
        let neighbours = neighbours.collect::<Result<Vec<_>>>()?;
        natively(&lab, &star)?;
        let options = Options { daemons: Vec::new(), fib: true, ..Options::default() };
        let router = Router::with_toml(&lab, &star, &options, without_bgp)?;
        let mut scene = Scene { lab, star, router, instances: Vec::new(), _neighbours: neighbours };
        for igp in Igp::ALL {
            let attach = Attach::Shim(scene.router.shim()?);
            let instance = Speaker::in_the_middle(&scene.lab, &scene.star.router, igp, igp.name(), &attach)?;
            scene.instances.push(instance);
        }
        Ok(scene)
    }

    /// The kernel comes to hold this, all three say it, and it is what they believe to be there.
    fn settle(&self, expected: &Routes) -> Result<()> {
        self.holds(expected)?;
        wait_until("everybody to agree", SETTLE, || {
            let diff = self.router.ctl(&["fib", "--diff"]).map_err(|e| format!("{e:#}"))?;
            if diff["entries"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(diff.to_string()) }
        })?;
        for instance in &self.instances {
            wait_state(&self.router, &instance.name, "voting", SETTLE)?;
            wait_until(&format!("{} to believe that its routes are in the kernel", instance.name), SETTLE, || {
                match instance.believes() {
                    Ok((n, 0)) if n == expected.len() => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })?;
        }
        let now = kernel(&self.star.router)?;
        ensure!(now == *expected, "the kernel did not stay as it was: {now:?}");
        Ok(())
    }

    fn holds(&self, expected: &Routes) -> Result<()> {
        wait_until("the routes in the kernel", SETTLE, || match kernel(&self.star.router) {
            Ok(routes) if routes == *expected => Ok(()),
            Ok(routes) => Err(format!("{routes:?}\n{}", self.router.show(&["fib", "--diff"]).unwrap_or_default())),
            Err(e) => Err(format!("{e:#}")),
        })
    }
}

/// virtd's configuration for instances without BGP: no peers, and what each may speak about.
fn without_bgp(text: String) -> String {
    let text =
        text.split("[[peer]]").next().unwrap_or_default().replacen("[router]\n", "[router]\naccept_any = true\n", 1);
    let instances = Igp::ALL.map(|igp| format!("[[instance]]\nname = \"{}\"\nfib_scope = [\"igp\"]\n\n", igp.name()));
    text + &instances.concat()
}

#[test]
fn ospf_isis_and_rip_agree_on_one_fib() -> Result<()> {
    let expected = shortest(true);
    let scene = Scene::new("igp", |lab, star| {
        Igp::ALL.iter().try_for_each(|igp| alone(lab, &star.router, *igp, &expected, SETTLE))
    })?;
    scene.settle(&expected)?;
    scene.lab.passed();
    Ok(())
}
