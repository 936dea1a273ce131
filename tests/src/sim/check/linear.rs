//! Whether a history of calls on one object is linearizable: Wing & Gong's search with Lowe's memory of configurations, in
//! the form of porcupine (Lowe, "Testing for linearizability", 2017; Athalye, "Porcupine", 2017).
//!
//! Objects compose: keys are checked one by one. A call whose answer nobody knows *may* have taken effect at any time of
//! its window, or never. A configuration is the set of calls that took effect, and the state; the set is remembered as a sum of
//! random numbers of 128 bits, so that a step costs no memory of its own.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What the object is, as a sequential program.
pub trait Model {
    /// Its state.
    type State: Copy + Eq + Hash + Debug;
    /// A request.
    type Input: Debug;
    /// An answer.
    type Output: Debug;

    /// The state before the first call.
    fn initial() -> Self::State;

    /// The state after a call, or `None` if the call cannot have had this answer. Without an answer it takes its effect.
    fn step(state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> Option<Self::State>;
}

/// A call. Instants are numbers of events: of two events the later one has the greater number.
#[derive(Clone, Debug)]
pub struct Call<M: Model> {
    /// What was asked.
    pub input: M::Input,
    /// What was answered. Without an answer the call took effect within its window, or never.
    pub output: Option<M::Output>,
    /// When it began.
    pub begin: u64,
    /// When its answer came; the end of its window if there is no answer, `u64::MAX` if that is open.
    pub until: u64,
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none. The longest one that was found cannot pass the end of this call.
    Violated {
        /// Index of the call in the history.
        call: usize,
    },
    /// Not known within the number of steps.
    Undecided,
}

/// A list of node numbers that gives its elements up and takes them back, the latest first. Node 0 is its head.
#[derive(Debug)]
struct Linked {
    next: Vec<u32>,
    previous: Vec<u32>,
}

impl Linked {
    fn new(count: usize) -> Linked {
        let len = u32::try_from(count + 1).expect("a history has fewer than 2^31 calls");
        Linked {
            next: (0..len).map(|at| (at + 1) % len).collect(),
            previous: (0..len).map(|at| (at + len - 1) % len).collect(),
        }
    }

    fn next(&self, node: u32) -> u32 {
        self.next[node as usize]
    }

    fn take(&mut self, node: u32) {
        let (previous, next) = (self.previous[node as usize], self.next[node as usize]);
        self.next[previous as usize] = next;
        self.previous[next as usize] = previous;
    }

    fn put_back(&mut self, node: u32) {
        let (previous, next) = (self.previous[node as usize], self.next[node as usize]);
        self.next[previous as usize] = node;
        self.previous[next as usize] = node;
    }
}

/// A beginning or an end of a call with an answer.
#[derive(Clone, Copy, Debug)]
struct Event {
    at: u64,
    call: usize,
    /// Of a beginning, the node of the end; 0 of an end.
    end: u32,
}

/// Where the search stands in the calls that could be next.
#[derive(Clone, Copy, Debug)]
enum Cursor {
    Answered(u32),
    /// Those without an answer that began before `bound`.
    Unanswered {
        node: u32,
        bound: u64,
    },
}

#[derive(Debug)]
struct Frame<S> {
    cursor: Cursor,
    state: S,
    latest_begin: u64,
    sum: u128,
}

/// Searches for an order of `calls` within `steps_max` steps.
#[must_use]
pub fn check<M: Model>(calls: &[Call<M>], steps_max: u64) -> Verdict {
    Search::new(calls).run(steps_max)
}

struct Search<'a, M: Model> {
    calls: &'a [Call<M>],
    /// By node number less one, in order.
    events: Vec<Event>,
    answered: Linked,
    /// Calls without an answer by node number less one, in order of their beginnings.
    open: Vec<usize>,
    unanswered: Linked,
    missing: usize,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(calls: &'a [Call<M>]) -> Search<'a, M> {
        let mut events = Vec::with_capacity(2 * calls.len());
        let mut open = Vec::new();
        for (index, call) in calls.iter().enumerate() {
            if call.output.is_some() {
                events.push(Event { at: call.begin, call: index, end: 1 });
                events.push(Event { at: call.until, call: index, end: 0 });
            } else {
                open.push(index);
            }
        }
        events.sort_by_key(|event| event.at);
        open.sort_by_key(|index| calls[*index].begin);
        let mut ends = vec![0; calls.len()];
        for (node, event) in events.iter_mut().enumerate().rev() {
            if event.end == 0 {
                ends[event.call] = u32::try_from(node + 1).expect("a history has fewer than 2^31 calls");
            } else {
                event.end = ends[event.call];
            }
        }
        let missing = events.len() / 2;
        let (answered, unanswered) = (Linked::new(events.len()), Linked::new(open.len()));
        Search { calls, events, answered, open, unanswered, missing }
    }

    fn run(mut self, steps_max: u64) -> Verdict {
        let calls = self.calls;
        let mut known: HashSet<(u128, M::State)> = HashSet::new();
        let mut stack: Vec<Frame<M::State>> = Vec::new();
        let (mut state, mut latest_begin, mut sum) = (M::initial(), 0, 0);
        let mut cursor = Cursor::Answered(self.answered.next(0));
        let mut furthest = (usize::MAX, 0);
        let mut steps = 0;
        while self.missing > 0 {
            steps += 1;
            if steps > steps_max {
                return Verdict::Undecided;
            }
            // Who could be next, and where the search goes on if that fails.
            let (call, otherwise) = match cursor {
                Cursor::Answered(node) => {
                    let event = self.events[node as usize - 1];
                    if event.end == 0 {
                        // Who began after this end cannot come before it.
                        if self.missing < furthest.0 {
                            furthest = (self.missing, event.call);
                        }
                        cursor = Cursor::Unanswered { node: self.unanswered.next(0), bound: event.at };
                        continue;
                    }
                    (event.call, Cursor::Answered(self.answered.next(node)))
                }
                Cursor::Unanswered { node, bound } => {
                    let index = (node > 0).then(|| self.open[node as usize - 1]);
                    let Some(index) = index.filter(|index| calls[*index].begin < bound) else {
                        let Some(frame) = stack.pop() else { return Verdict::Violated { call: furthest.1 } };
                        (state, latest_begin, sum) = (frame.state, frame.latest_begin, frame.sum);
                        cursor = self.put_back(frame.cursor);
                        continue;
                    };
                    (index, Cursor::Unanswered { node: self.unanswered.next(node), bound })
                }
            };
            let tried = &calls[call];
            let is_open = tried.output.is_none();
            let next = if is_open && tried.until <= latest_begin {
                None
            } else {
                // One without an answer and without an effect need not be placed.
                let next = M::step(&state, &tried.input, tried.output.as_ref());
                next.filter(|next| !is_open || *next != state)
            };
            let next_sum = sum ^ random_of(call);
            let Some(next) = next.filter(|next| known.insert((next_sum, *next))) else {
                cursor = otherwise;
                continue;
            };
            stack.push(Frame { cursor, state, latest_begin, sum });
            (state, latest_begin, sum) = (next, latest_begin.max(tried.begin), next_sum);
            self.take(cursor);
            cursor = Cursor::Answered(self.answered.next(0));
        }
        Verdict::Linearizable
    }

    fn take(&mut self, cursor: Cursor) {
        match cursor {
            Cursor::Answered(node) => {
                self.answered.take(node);
                self.answered.take(self.events[node as usize - 1].end);
                self.missing -= 1;
            }
            Cursor::Unanswered { node, .. } => self.unanswered.take(node),
        }
    }

    /// Undoes a choice; returns the one after it.
    fn put_back(&mut self, cursor: Cursor) -> Cursor {
        match cursor {
            Cursor::Answered(node) => {
                self.answered.put_back(self.events[node as usize - 1].end);
                self.answered.put_back(node);
                self.missing += 1;
                Cursor::Answered(self.answered.next(node))
            }
            Cursor::Unanswered { node, bound } => {
                self.unanswered.put_back(node);
                Cursor::Unanswered { node: self.unanswered.next(node), bound }
            }
        }
    }
}

/// The number that stands for a call in the sum of a set (splitmix64, twice).
fn random_of(call: usize) -> u128 {
    let mix = |seed: u64| {
        let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let call = call as u64;
    u128::from(mix(2 * call)) << 64 | u128::from(mix(2 * call + 1))
}
