//! What has happened on a connection, and how long it may stay as it is.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use axum::http::Version;
use tokio::time::Instant;

/// How long a connection may be without a request.
#[derive(Clone, Copy)]
pub(super) struct IdleTimeouts {
    /// Time allowed for the first request to come, and for the rest of any that has begun.
    pub(super) request: Duration,
    /// Time allowed between the end of one request and the beginning of the next.
    pub(super) idle: Duration,
    /// Upper bound on the time to send an answer while the client takes of it, added to the above.
    pub(super) sending: Duration,
}

/// An idle connection is younger than this while its client asks one thing after another, and is
/// not ended for others.
const REST: Duration = Duration::from_secs(1);

/// How well a connection can be spared when others need its room: the smallest first, and of two
/// alike the elder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sparable {
    /// The connection began then and has not asked anything yet.
    NeverAsked(Instant),
    /// The client has been told that the connection ends.
    Leaving(Instant),
    /// The connection has been idle since then.
    Idle(Instant),
}

/// What has happened on a connection.
pub(super) struct Activity {
    timeouts: IdleTimeouts,
    state: Mutex<State>,
}

struct State {
    /// How the requests come; unknown before the first.
    version: Option<Version>,
    /// Requests that a handler is working on, reading of their bodies included.
    in_progress: usize,
    /// When the last of them ended, or the connection began.
    ended: Instant,
    /// When the first bytes after that came.
    begun: Option<Instant>,
    /// When the client last took something.
    written: Instant,
    /// Whether there is more to write than the client takes.
    is_blocked: bool,
    /// Whether the last answer says that the connection ends.
    is_leaving: bool,
    /// Whether the connection is to end because others need its room.
    is_dismissed: bool,
    task: Option<Waker>,
}

impl Activity {
    pub(super) fn new(timeouts: IdleTimeouts) -> Self {
        let now = Instant::now();
        let state = Mutex::new(State {
            version: None,
            in_progress: 0,
            ended: now,
            begun: None,
            written: now,
            is_blocked: false,
            is_leaving: false,
            is_dismissed: false,
            task: None,
        });
        Self { timeouts, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the connection is to end, if nothing happens until then. Requests in progress have
    /// limits of their own.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let IdleTimeouts {
            request,
            idle,
            sending,
        } = self.timeouts;
        let state = self.state();
        let last = state.ended.max(state.written);
        if state.in_progress > 0 {
            now + request
        } else if state.is_blocked {
            (last + request).min(state.ended + request + sending)
        } else if state.version.is_none() {
            state.ended + request
        } else if let Some(begun) = state.begun {
            begun + request
        } else {
            (last + idle).min(state.ended + idle + sending)
        }
    }

    /// When to look next at what is due: what happens meanwhile may bring it forward, but not
    /// before then.
    pub(super) fn next_look(&self, now: Instant) -> Instant {
        let IdleTimeouts { request, idle, .. } = self.timeouts;
        self.due(now).min(now + request.min(idle))
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> InProgress {
        let mut state = self.state();
        state.version = Some(version);
        state.begun = None;
        state.in_progress += 1;
        InProgress(Arc::clone(self))
    }

    /// Bytes have come. Those of HTTP/2 need not be part of a request: a client may ask whether the
    /// server is there.
    pub(super) fn note_read(&self) {
        let mut state = self.state();
        if state.in_progress == 0 && state.version != Some(Version::HTTP_2) {
            state.begun.get_or_insert_with(Instant::now);
        }
    }

    pub(super) fn note_written(&self) {
        let mut state = self.state();
        state.written = Instant::now();
        state.is_blocked = false;
    }

    /// The client does not take what there is for it.
    pub(super) fn note_blocked(&self) {
        self.state().is_blocked = true;
    }

    /// The answer says that the connection ends after it.
    pub(super) fn note_leaving(&self) {
        self.state().is_leaving = true;
    }

    /// How the one request in progress came, where requests come one after another.
    pub(super) fn working_on(&self) -> Option<Version> {
        let state = self.state();
        let one_by_one = state.version.filter(|version| *version < Version::HTTP_2);
        one_by_one.filter(|_| state.in_progress > 0)
    }

    /// Whether no whole request has come, so that nothing has been answered.
    pub(super) fn has_asked_nothing(&self) -> bool {
        self.state().version.is_none()
    }

    /// Whether all has been answered and nothing begun, on a connection that has asked before.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state();
        state.version.is_some()
            && state.begun.is_none()
            && state.in_progress == 0
            && !state.is_blocked
    }

    /// Whether the connection could end now without a loss.
    pub(super) fn sparable(&self, now: Instant) -> Option<Sparable> {
        let state = self.state();
        if state.in_progress > 0 || state.is_blocked {
            None
        } else if state.version.is_none() {
            Some(Sparable::NeverAsked(state.ended))
        } else if state.is_leaving {
            // It has to be told why before it goes.
            let is_told = state.written > state.ended;
            is_told.then_some(Sparable::Leaving(state.ended))
        } else {
            let is_idle = state.begun.is_none() && now >= state.ended + REST;
            is_idle.then_some(Sparable::Idle(state.ended))
        }
    }

    /// Ends the connection: others need its room.
    pub(super) fn dismiss(&self) {
        let mut state = self.state();
        state.is_dismissed = true;
        if let Some(task) = state.task.take() {
            task.wake();
        }
    }

    /// Whether that has happened; if not yet, the task is woken when it does.
    pub(super) fn is_dismissed(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state();
        match &mut state.task {
            Some(task) => task.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        state.is_dismissed
    }
}

/// A request in progress; ends when this is dropped.
pub(super) struct InProgress(Arc<Activity>);

impl Drop for InProgress {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_progress -= 1;
        state.ended = Instant::now();
    }
}
