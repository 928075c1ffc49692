//! Dead letters: of the queue, or, where there is none, of the table.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aws_sdk_sqs::types::{Message, MessageAttributeValue};
use localstack::{eventually, variable};

use super::Stack;

impl Stack {
    /// Waits until there are so many letters that `is_ours`; takes them out.
    pub async fn dead_letters(&self, count: usize, is_ours: impl Fn(&Message) -> bool) -> Result<Vec<Message>> {
        let mut letters: BTreeMap<String, Message> = BTreeMap::new();
        eventually(&format!("{count} dead letters"), async || {
            for letter in self.look_for_letters(1).await.map_err(|error| format!("{error:?}"))? {
                let id = letter.message_id.clone().unwrap_or_default();
                // One that was not deleted, since it had come back to others meanwhile, comes again.
                if letters.contains_key(&id) || is_ours(&letter) {
                    self.take_out(&letter).await.map_err(|error| format!("{error:?}"))?;
                    letters.insert(id, letter);
                }
            }
            if letters.len() >= count { Ok(()) } else { Err(format!("{} letters", letters.len())) }
        })
        .await;
        Ok(letters.into_values().collect())
    }

    /// Some letters. In the queue nobody else sees them for so long; of the table it is all of them.
    pub async fn look_for_letters(&self, hidden_seconds: i32) -> Result<Vec<Message>> {
        if self.run.has_queue() {
            let request = self.sqs.receive_message().queue_url(variable("DEAD_LETTER_QUEUE_URL"));
            let request = request.max_number_of_messages(10).message_attribute_names("All");
            let answer = request.visibility_timeout(hidden_seconds).wait_time_seconds(1).send().await?;
            return Ok(answer.messages.unwrap_or_default());
        }
        let query = "SELECT id::text, stream, key, version::text, error_type, reason, at::text FROM sluice.dead_letter
             WHERE subscription = 'elasticsearch' AND error_type IS NOT NULL ORDER BY id";
        let names = ["stream", "key", "version", "error_type", "reason", "first_seen"];
        let mut letters = vec![];
        for row in self.owner.query(query, &[]).await? {
            let mut letter = Message::builder().message_id(row.get::<_, String>(0));
            for (index, name) in names.iter().enumerate() {
                let value = row.get::<_, Option<String>>(index + 1).unwrap_or_default();
                let value = MessageAttributeValue::builder().data_type("String").string_value(value).build()?;
                letter = letter.message_attributes(*name, value);
            }
            letters.push(letter.build());
        }
        Ok(letters)
    }

    /// Takes a letter out of the queue, or the table.
    pub async fn take_out(&self, letter: &Message) -> Result<()> {
        if self.run.has_queue() {
            let handle = letter.receipt_handle.clone().unwrap_or_default();
            let request = self.sqs.delete_message().queue_url(variable("DEAD_LETTER_QUEUE_URL"));
            request.receipt_handle(handle).send().await?;
            return Ok(());
        }
        let id = letter.message_id.as_deref().context("a letter has an id")?;
        self.owner.execute("DELETE FROM sluice.dead_letter WHERE id::text = $1", &[&id]).await?;
        Ok(())
    }

    /// Takes the letter that is alone in the dead-letter queue: it stays there, and nobody else sees it for so long.
    pub async fn hide_letter(&self, seconds: i32) -> Message {
        eventually("a letter", async || {
            let letters = self.look_for_letters(seconds).await.map_err(|error| format!("{error:?}"))?;
            letters.into_iter().next().ok_or("none is visible".to_owned())
        })
        .await
    }
}

/// An attribute of a dead letter.
pub fn attribute<'a>(letter: &'a Message, name: &str) -> &'a str {
    let attributes = letter.message_attributes.as_ref();
    attributes.and_then(|all| all.get(name)).and_then(|value| value.string_value.as_deref()).unwrap_or_default()
}
