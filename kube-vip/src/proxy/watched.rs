//! A body that tells when it has moved last: time is counted from then, not from the beginning of an
//! upload that takes minutes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, sleep_until};

/// When something has moved last.
#[derive(Clone, Debug)]
pub(super) struct Moved(Arc<Mutex<Instant>>);

impl Moved {
    pub(super) fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn mark(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits until nothing has moved for so long.
    pub(super) async fn rests_for(&self, limit: Duration) {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + limit;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// A client's body.
#[derive(Debug)]
pub(super) struct Watched {
    body: Incoming,
    moved: Moved,
}

impl Watched {
    pub(super) fn new(body: Incoming, moved: Moved) -> Self {
        Self { body, moved }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.moved.mark();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_is_counted_from_the_last_move() {
        let (moved, began) = (Moved::now(), Instant::now());
        let waiting = {
            let moved = moved.clone();
            tokio::spawn(async move { moved.rests_for(Duration::from_secs(10)).await })
        };
        tokio::time::sleep(Duration::from_secs(7)).await;
        moved.mark();
        waiting.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 17);
    }
}
