use database::{Connect, ConnectError, Session as _};

/// A session that is opened when it is needed, and again when it was lost.
pub struct Session<D: Connect> {
    database: D,
    name: &'static str,
    open: Option<D::Session>,
}

impl<D: Connect> Session<D> {
    pub fn new(database: D, name: &'static str) -> Self {
        Self { database, name, open: None }
    }

    /// An open session, and whether it is a new one.
    pub async fn get(&mut self) -> Result<(&D::Session, bool), ConnectError> {
        let is_new = self.open().is_none();
        if is_new {
            self.open = Some(self.database.connect(self.name).await?);
        }
        match &self.open {
            Some(session) => Ok((session, is_new)),
            None => unreachable!("it was just opened"),
        }
    }

    /// The session, if one is open.
    pub fn open(&self) -> Option<&D::Session> {
        self.open.as_ref().filter(|session| !session.is_closed())
    }

    /// Gives the session up: after an error nobody knows what it still waits for.
    pub fn close(&mut self) {
        self.open = None;
    }
}
