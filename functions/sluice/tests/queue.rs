//! By way of SQS: what is under way when a process is told to stop. It needs the queues of the local stack.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test by its panic")]

use aws_config::BehaviorVersion;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName::{ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible};
use localstack::{eventually, variable};
use tokio::net::TcpListener;

#[allow(dead_code, reason = "shared with the tests of the direct way, which use the rest of it")]
#[path = "main/load.rs"]
mod load;
#[allow(dead_code, reason = "shared with the tests of the direct way, which use the rest of it")]
#[path = "main/world.rs"]
mod world;

use world::World;

struct Queues {
    sqs: Client,
    queue_url: String,
}

impl Queues {
    /// Two of the test's own, which the world's processes are told of.
    async fn create(world: &mut World) -> Self {
        let sqs = Client::new(&aws_config::load_defaults(BehaviorVersion::latest()).await);
        let create = async |name: String| sqs.create_queue().queue_name(name).send().await.unwrap().queue_url.unwrap();
        let queue_url = create(world.prefix.clone()).await;
        let letters_url = create(format!("{}dead", world.prefix)).await;
        world.variables.insert("QUEUE_URL".to_owned(), queue_url.clone());
        world.variables.insert("DEAD_LETTER_QUEUE_URL".to_owned(), letters_url);
        for name in ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"] {
            world.variables.insert(name.to_owned(), variable(name));
        }
        Self { sqs, queue_url }
    }

    /// Messages that are visible, and in flight.
    async fn counts(&self) -> (u32, u32) {
        let names = vec![ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible];
        let request =
            self.sqs.get_queue_attributes().queue_url(&self.queue_url).set_attribute_names(Some(names.clone()));
        let found = request.send().await.unwrap().attributes.unwrap_or_default();
        let count = |at: usize| found.get(&names[at]).and_then(|count| count.parse().ok()).unwrap_or_default();
        (count(0), count(1))
    }
}

#[tokio::test]
async fn a_batch_in_flight_is_finished_when_the_process_is_told_to_stop() {
    let mut world = World::create().await;
    let queues = Queues::create(&mut world).await;
    let mut first = world.run(&[]);
    world.another_drains(None).await;
    for round in 0..5 {
        let insert = "INSERT INTO item SELECT n, 'round' FROM generate_series($1::bigint, $1::bigint + 1999) AS n";
        world.owner.execute(insert, &[&(round * 2000_i64)]).await.unwrap();
    }
    eventually("a part to arrive", async || match world.indexed("items").await.len() {
        0 => Err("nothing"),
        _ => Ok(()),
    })
    .await;
    first.signal("TERM");
    assert_eq!(first.ends().await.code(), Some(0), "{}", first.log());
    assert_eq!(queues.counts().await.1, 0, "nothing is left in flight");
    let _second = world.run(&[]);
    world.converges("items").await;
    let output = world.output(&["check"], &[]);
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_batch_that_cannot_be_finished_is_given_back_and_received_at_once() {
    let mut world = World::create().await;
    let queues = Queues::create(&mut world).await;
    // It takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut first = world.run(&[("ELASTICSEARCH_URL", &url)]);
    world.execute("INSERT INTO item SELECT n, 'name' FROM generate_series(1, 100) AS n").await;
    eventually("a batch in flight", async || match queues.counts().await {
        (_, 0) => Err("none"),
        _ => Ok(()),
    })
    .await;
    first.signal("TERM");
    assert_eq!(first.ends().await.code(), Some(0), "{}", first.log());
    let (visible, in_flight) = queues.counts().await;
    assert!(visible > 0 && in_flight == 0, "{visible} visible, {in_flight} in flight");
    drop(silent);
    let _second = world.run(&[]);
    world.converges("items").await;
}

/// Messages of either generation are on their way when it takes over, and when it goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_mapping_takes_over_and_goes_back_by_way_of_the_queue() {
    let mut world = World::create().await;
    let _queues = Queues::create(&mut world).await;
    let _process = world.run(&[("SECOND_LOOK_AFTER", "1s")]);
    load::change_the_mapping_under_a_load(&world).await;
}
