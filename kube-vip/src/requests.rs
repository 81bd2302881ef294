//! What the agent answers at its socket.

use kube_vip_quorum::node::Orders;
use tokio::sync::{Mutex, watch};
use tracing::info;

use crate::agent::State;
use crate::publish::{Answer, Reply, Request};
use crate::status;

/// Answers a request at the agent's socket.
pub(crate) async fn reply(
    state: &Mutex<State>,
    orders: Option<&watch::Receiver<Option<Orders>>>,
    request: Request,
) -> Reply {
    let order = match request {
        Request::Status => {
            return Reply::Now(Answer::Status(Box::new(status::of(&*state.lock().await))));
        }
        Request::Order(order) => order,
    };
    let Some(orders) = orders else {
        let why = "the hosts do not elect among themselves here (`election: file`): the files say \
                   who owns the virtual addresses and who takes part";
        return Reply::Now(Answer::Refused(why.to_owned()));
    };
    let Some(orders) = orders.borrow().clone() else {
        let why = "this host takes no part now; `kube-vip status` says why";
        return Reply::Now(Answer::Refused(why.to_owned()));
    };
    info!(?order, "asked for at the socket");
    Reply::Later(Box::pin(async move { Answer::Ordered(orders.give(order).await) }))
}
