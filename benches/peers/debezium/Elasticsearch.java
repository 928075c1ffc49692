import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine.ChangeConsumer;
import io.debezium.engine.DebeziumEngine.RecordCommitter;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;

/** Bulk requests. */
final class Elasticsearch implements ChangeConsumer<ChangeEvent<String, String>> {
    /** At a time, as many as Sluice has indexers. */
    private static final int REQUESTS = 4;
    /** Before the digits of a key; a brace is behind them. */
    private static final String KEY = "{\"id\":";

    private final HttpClient client = HttpClient.newHttpClient();
    private final HttpRequest.Builder request;
    private CompletableFuture<Void> written = CompletableFuture.completedFuture(null);

    Elasticsearch(String url, String authorization) {
        request = HttpRequest.newBuilder(URI.create(url + "/_bulk?filter_path=errors"))
            .header("Content-Type", "application/x-ndjson")
            .header("Authorization", authorization);
    }

    /** Writes while the engine prepares the next batch, but after the last one: a row's changes keep their order. */
    @Override
    public void handleBatch(List<ChangeEvent<String, String>> changes, RecordCommitter<ChangeEvent<String, String>> committer) {
        var bodies = new StringBuilder[REQUESTS];
        Arrays.setAll(bodies, number -> new StringBuilder());
        for (var change : changes) {
            String key = change.key().substring(KEY.length(), change.key().length() - 1);
            var body = bodies[Math.floorMod(key.hashCode(), REQUESTS)];
            if (change.value() == null) {
                body.append("{\"delete\":{\"_id\":\"").append(key).append("\"}}\n");
            } else {
                body.append("{\"index\":{\"_id\":\"").append(key).append("\"}}\n").append(change.value()).append('\n');
            }
        }
        written.join();
        var requests = Stream.of(bodies).filter(body -> !body.isEmpty()).map(this::write).toArray(CompletableFuture[]::new);
        written = CompletableFuture.allOf(requests).thenRun(() -> Pipeline.commit(changes, committer));
    }

    private CompletableFuture<Void> write(StringBuilder body) {
        var post = request.copy().POST(BodyPublishers.ofString(body.toString())).build();
        return client.sendAsync(post, BodyHandlers.ofString()).thenAccept(Elasticsearch::check);
    }

    private static void check(HttpResponse<String> answer) {
        if (!answer.body().equals("{\"errors\":false}")) {
            throw new IllegalStateException("Elasticsearch says " + answer.body());
        }
    }
}
