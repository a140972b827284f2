//! Which legs of an instance have the short hold time, by which a hang shows.

use super::*;

/// Sees to it that a hang shows soon: an instance of which nothing has come on any leg for the short
/// hold time, and of which no leg is left that has it, loses all; where too few have it for a while,
/// one is opened anew.
pub fn look_for_hangs(sessions: &mut [Session], hung: impl Fn(usize, &Env) -> bool, env: &mut Env) {
    for i in 0..env.instances.len() {
        let (mut short, mut long) = (0, 0);
        for is_short in sessions.iter().filter_map(|s| s.hold_of(i)) {
            short += usize::from(is_short);
            long += usize::from(!is_short);
        }
        let now = env.now;
        let Some(instance) = env.instances.get_mut(i) else { continue };
        instance.short_legs = short;
        let too_few = short < MIN_SHORT_LEGS && long > 0;
        let since = *instance.few_short.get_or_insert(now);
        instance.few_short = instance.few_short.filter(|_| too_few);
        if short == 0 && long > 0 && hung(i, env) {
            sessions.iter_mut().for_each(|s| s.silence(i, env));
        } else if too_few && now >= since + SHORTEN_US {
            let may_go = |s: &&mut Session| s.hold_of(i) == Some(false) && s.can_lose(i, env);
            if let Some(session) = sessions.iter_mut().find(may_go) {
                session.restart_leg(i, env);
                if let Some(instance) = env.instances.get_mut(i) {
                    instance.few_short = Some(now);
                }
            }
        }
    }
}
