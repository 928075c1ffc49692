import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine.ChangeConsumer;
import io.debezium.engine.DebeziumEngine.RecordCommitter;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.serialization.StringSerializer;

/** Kafka's own producer: idempotent, in the batches and with the compression that Sluice has; no transactions. */
final class Kafka implements ChangeConsumer<ChangeEvent<String, String>> {
    private final KafkaProducer<String, String> producer;
    private final String topic;
    private CompletableFuture<Void> written = CompletableFuture.completedFuture(null);

    Kafka(String brokers, String topic, int partitions) {
        this.topic = topic;
        make(brokers, topic, partitions);
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", brokers, "acks", "all", "enable.idempotence", true,
            "batch.size", 256 * 1024, "linger.ms", 5, "compression.type", "lz4");
        producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    private static void make(String brokers, String topic, int partitions) {
        try (var admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
            var wanted = new NewTopic(topic, partitions, (short) 1).configs(Map.of("cleanup.policy", "compact"));
            admin.createTopics(List.of(wanted)).all().get();
        } catch (InterruptedException | ExecutionException failure) {
            if (!(failure.getCause() instanceof TopicExistsException)) {
                throw new IllegalStateException(failure);
            }
        }
    }

    /** The producer sends while the engine prepares the next batch, and keeps the order by itself. */
    @Override
    public void handleBatch(List<ChangeEvent<String, String>> changes, RecordCommitter<ChangeEvent<String, String>> committer) {
        var sent = new ArrayList<Future<?>>(changes.size());
        for (var change : changes) {
            sent.add(producer.send(new ProducerRecord<>(topic, change.key(), change.value())));
        }
        written.join();
        written = CompletableFuture.runAsync(() -> {
            sent.forEach(Kafka::await);
            Pipeline.commit(changes, committer);
        });
    }

    private static void await(Future<?> sent) {
        try {
            sent.get();
        } catch (InterruptedException | ExecutionException failure) {
            throw new IllegalStateException(failure);
        }
    }
}
