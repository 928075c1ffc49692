use config::Secrets;
use database::{ConnectError, Settings};
use tokio_postgres::Client;

/// A connection that is opened when it is needed, and again when it was lost.
pub struct Session {
    settings: Settings,
    secrets: Secrets,
    name: &'static str,
    client: Option<Client>,
}

impl Session {
    pub fn new(settings: Settings, secrets: Secrets, name: &'static str) -> Self {
        Self { settings, secrets, name, client: None }
    }

    /// An open connection, and whether it is a new one.
    pub async fn client(&mut self) -> Result<(&mut Client, bool), ConnectError> {
        let is_new = self.client.as_ref().is_none_or(Client::is_closed);
        if is_new {
            self.client = Some(database::connect(&self.settings, &self.secrets, self.name).await?);
        }
        match &mut self.client {
            Some(client) => Ok((client, is_new)),
            None => unreachable!("it was just opened"),
        }
    }

    /// The connection, if one is open.
    pub fn open(&self) -> Option<&Client> {
        self.client.as_ref().filter(|client| !client.is_closed())
    }

    /// Gives the connection up: after an error nobody knows what it still waits for.
    pub fn close(&mut self) {
        self.client = None;
    }
}
