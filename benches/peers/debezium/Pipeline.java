import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.DebeziumEngine.ChangeConsumer;
import io.debezium.engine.DebeziumEngine.RecordCommitter;
import io.debezium.engine.format.Json;
import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Properties;

/** Debezium's engine, and what most people would write behind it. */
public final class Pipeline {
    private Pipeline() {}

    public static void main(String[] arguments) throws Exception {
        var properties = new Properties();
        try (Reader file = Files.newBufferedReader(Path.of(arguments[0]))) {
            properties.load(file);
        }
        try (var engine = DebeziumEngine.create(Json.class).using(properties).notifying(target(System.getenv("TARGET"))).build()) {
            engine.run();
        }
    }

    private static ChangeConsumer<ChangeEvent<String, String>> target(String name) {
        return switch (name) {
            case "elasticsearch" -> new Elasticsearch(System.getenv("INDEX_URL"), System.getenv("AUTHORIZATION"));
            case "kafka" -> new Kafka(System.getenv("BROKERS"), System.getenv("TOPIC"), Integer.parseInt(System.getenv("PARTITIONS")));
            case "clickhouse" -> new ClickHouse(System.getenv("INSERT_URL"), System.getenv("INSERT_USER"), System.getenv("INSERT_PASSWORD"));
            default -> throw new IllegalArgumentException("there is no target " + name);
        };
    }

    /** Tells the engine that these have arrived. */
    static void commit(List<ChangeEvent<String, String>> changes, RecordCommitter<ChangeEvent<String, String>> committer) {
        try {
            for (var change : changes) {
                committer.markProcessed(change);
            }
            committer.markBatchFinished();
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
