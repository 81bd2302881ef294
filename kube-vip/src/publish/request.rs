//! What an agent can be asked on its socket, and what it answers.

use std::pin::Pin;

use kube_vip_quorum::node::{Order, OrderError};
use serde::{Deserialize, Serialize};

use super::status::Status;

/// What an agent is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// How it is.
    Status,
    /// To have the leader of the hosts do something.
    Order(Order),
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// How it is.
    Status(Box<Status>),
    /// What became of the order.
    Ordered(Result<(), OrderError>),
    /// It does not do that.
    Refused(String),
}

/// An answer now, or one that takes its time.
pub enum Reply {
    /// The answer.
    Now(Answer),
    /// What comes to the answer.
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

impl Reply {
    pub(super) async fn answer(self) -> Answer {
        match self {
            Self::Now(answer) => answer,
            Self::Later(answer) => answer.await,
        }
    }
}
