//! The intake: back-pressure before the gate. A new connection waits, and with it those that the
//! system holds behind it, until one that has ended has given its file back.

use std::{
    convert::Infallible,
    future::{Ready, ready as now},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{Router, extract::ConnectInfo, http::Request};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Connections that have been ended for others and have not closed their files yet.
const ENDING: usize = 8;

type Waiting = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// Hands the routes to each new connection.
pub(super) struct Intake {
    routes: Router,
    files: Arc<Semaphore>,
    waiting: Option<Waiting>,
    file: Option<OwnedSemaphorePermit>,
}

/// The routes as a connection gets them, and with them one of the files, until it lets go of both.
#[derive(Clone)]
pub(super) struct Routes {
    inner: Router,
    peer: SocketAddr,
    _file: Option<Arc<OwnedSemaphorePermit>>,
}

impl<B> tower::Service<Request<B>> for Routes
where
    Router: tower::Service<Request<B>>,
{
    type Response = <Router as tower::Service<Request<B>>>::Response;
    type Error = <Router as tower::Service<Request<B>>>::Error;
    type Future = <Router as tower::Service<Request<B>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        tower::Service::<Request<B>>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(ConnectInfo(self.peer));
        self.inner.call(request)
    }
}

impl Intake {
    /// An intake for a room that holds so many connections.
    pub(super) fn new(routes: Router, capacity: usize) -> Self {
        let files = capacity.saturating_add(ENDING).min(Semaphore::MAX_PERMITS);
        Self {
            routes,
            files: Arc::new(Semaphore::new(files)),
            waiting: None,
            file: None,
        }
    }
}

impl tower::Service<SocketAddr> for Intake {
    type Response = Routes;
    type Error = Infallible;
    type Future = Ready<Result<Routes, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.file.is_none() {
            let files = &self.files;
            let waiting = self
                .waiting
                .get_or_insert_with(|| Box::pin(Arc::clone(files).acquire_owned()));
            let file = ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
            self.file = file.ok();
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, peer: SocketAddr) -> Self::Future {
        now(Ok(Routes {
            inner: self.routes.clone(),
            peer,
            _file: self.file.take().map(Arc::new),
        }))
    }
}
