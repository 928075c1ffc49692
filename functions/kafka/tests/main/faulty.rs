//! A client that fails, or freezes, where it is told to; in between it is the real one.

use std::sync::{Arc, Mutex, PoisonError};

use kafka::client::{Client, Error, Message, Producer, Rejection};
use kafka::{Krafka, KrafkaProducer};
use tokio::sync::Notify;

/// Where something happens to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// It has taken the subscription over, and fenced nobody yet.
    BeforeTakeOver,
    /// It has fenced whoever was there, and has not made certain that it is still the one.
    AfterTakeOver,
    BeforeSend,
    /// All is sent, nothing committed.
    AfterSend,
    /// All is committed, and the answer is lost.
    AfterCommit,
}

pub const POINTS: [Point; 5] =
    [Point::BeforeTakeOver, Point::AfterTakeOver, Point::BeforeSend, Point::AfterSend, Point::AfterCommit];

/// What happens there, once.
#[derive(Clone, Debug)]
pub enum Fate {
    Fail,
    /// Nothing goes on until it is thawed.
    Freeze {
        frozen: Arc<Notify>,
        thawed: Arc<Notify>,
    },
}

impl Fate {
    pub fn freeze() -> Self {
        Self::Freeze { frozen: Arc::default(), thawed: Arc::default() }
    }
}

type Next = Arc<Mutex<Option<(Point, Fate)>>>;

pub struct Faulty {
    real: Krafka,
    next: Next,
}

pub struct FaultyProducer {
    real: KrafkaProducer,
    next: Next,
}

impl Faulty {
    pub fn new(real: Krafka) -> (Self, Next) {
        let next = Next::default();
        (Self { real, next: Arc::clone(&next) }, next)
    }
}

async fn pass(next: &Next, point: Point) -> Result<(), Error> {
    let fate = {
        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
        next.take_if(|(at, _)| *at == point)
    };
    match fate {
        None => Ok(()),
        Some((_, Fate::Fail)) => Err(Error::Failed { doing: "being tested", source: format!("{point:?}").into() }),
        Some((_, Fate::Freeze { frozen, thawed })) => {
            frozen.notify_one();
            thawed.notified().await;
            Ok(())
        }
    }
}

impl Client for Faulty {
    type Producer = FaultyProducer;

    async fn take_over(&mut self, previous: Option<FaultyProducer>) -> Result<FaultyProducer, Error> {
        pass(&self.next, Point::BeforeTakeOver).await?;
        let real = self.real.take_over(previous.map(|previous| previous.real)).await?;
        pass(&self.next, Point::AfterTakeOver).await?;
        Ok(FaultyProducer { real, next: Arc::clone(&self.next) })
    }
}

impl Producer for FaultyProducer {
    async fn send(&mut self, messages: &[Message]) -> Result<Vec<Rejection>, Error> {
        pass(&self.next, Point::BeforeSend).await?;
        let rejections = self.real.send(messages).await?;
        pass(&self.next, Point::AfterSend).await?;
        Ok(rejections)
    }

    async fn commit(&mut self) -> Result<(), Error> {
        self.real.commit().await?;
        pass(&self.next, Point::AfterCommit).await
    }
}
