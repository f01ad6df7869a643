//! What follows from the end of a task.

use super::{Action, Doom, GiveUp, Machine, Phase};
use crate::restart::Decision;
use std::collections::VecDeque;
use std::time::Duration;

impl Machine {
    /// A task's process has ended, or could not be started.
    pub(super) fn ended(
        &mut self,
        now: Duration,
        task: usize,
        good: bool,
        how: &str,
        actions: &mut VecDeque<Action>,
    ) {
        let announced = self.announced;
        let life = &mut self.lives[task];
        if !life.runs {
            return;
        }
        life.runs = false;
        life.stuck = None;
        let was_ready = life.phase == Phase::Ready;
        let (ran, doom) = (now.saturating_sub(life.started), life.doom.take());
        let mut crashed = false;
        match doom {
            Some((Doom::Restart, _)) => return self.launch(now, task, actions),
            Some((Doom::Stay(why), _)) => return self.fail(task, why, false, actions),
            Some((Doom::Crash, _)) => crashed = true,
            None => {}
        }
        if good && !crashed && life.rules.finishes {
            life.phase = Phase::Ended;
            life.ever_ready = true;
            actions.push_back(Action::Answer(task));
            self.launch_all(now, actions);
            self.announce(actions);
            return;
        }
        let name = &life.rules.name;
        if !was_ready {
            let text = format!("the task {name} ended before it was ready: {how}");
            actions.push_back(Action::Refuse(task, text));
        }
        if !announced && life.rules.required && !life.ever_ready {
            self.stopped = true;
            let text = format!("the task {name} ended before the system was ready: {how}");
            actions.push_back(Action::Stop(text));
            return;
        }
        match life.history.ended(&life.rules.restart, good && !crashed, ran, now) {
            Decision::Now => self.launch_again(now, task, actions),
            Decision::At(until) => life.phase = Phase::BackingOff { until },
            Decision::Stay if good && !crashed => life.phase = Phase::Ended,
            Decision::Stay => self.fail(task, format!("it is not restarted: {how}"), true, actions),
            Decision::GiveUp(why) => {
                self.fail(task, format!("given up: {why} ({how})"), true, actions);
            }
        }
    }

    /// A task stays away for good. `tell`: what follows from that is to happen.
    fn fail(&mut self, task: usize, why: String, tell: bool, actions: &mut VecDeque<Action>) {
        let life = &mut self.lives[task];
        actions.push_back(Action::Refuse(task, format!("the task {}: {why}", life.rules.name)));
        let text = format!("the task {} has failed: {why}", life.rules.name);
        life.phase = Phase::Failed { why };
        match life.rules.give_up {
            GiveUp::Leave => {}
            _ if !tell => {}
            GiveUp::StopDependents => self.stop_dependents(task, actions),
            GiveUp::StopSystem => {
                self.stopped = true;
                actions.push_back(Action::Stop(text));
            }
        }
    }

    /// Stops all that start after `task`, and those that start after them.
    fn stop_dependents(&mut self, task: usize, actions: &mut VecDeque<Action>) {
        let mut gone = vec![task];
        while let Some(on) = gone.pop() {
            let why = format!("{}, which it starts after, has failed", self.lives[on].rules.name);
            for other in 0..self.lives.len() {
                let life = &mut self.lives[other];
                let over = matches!(life.phase, Phase::Failed { .. } | Phase::Ended)
                    || matches!(life.doom, Some((Doom::Stay(_), _)));
                if over || !life.rules.after.contains(&on) {
                    continue;
                }
                gone.push(other);
                if life.runs {
                    self.kill(other, Doom::Stay(why.clone()), &why, actions);
                } else {
                    life.phase = Phase::Failed { why: why.clone() };
                }
            }
        }
    }
}
