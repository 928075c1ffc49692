import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine.ChangeConsumer;
import io.debezium.engine.DebeziumEngine.RecordCommitter;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/** An INSERT a batch: no versions, no deletes. */
final class ClickHouse implements ChangeConsumer<ChangeEvent<String, String>> {
    private final HttpClient client = HttpClient.newHttpClient();
    private final HttpRequest.Builder request;
    private CompletableFuture<Void> written = CompletableFuture.completedFuture(null);

    ClickHouse(String url, String user, String password) {
        request = HttpRequest.newBuilder(URI.create(url)).header("X-ClickHouse-User", user).header("X-ClickHouse-Key", password);
    }

    /** Writes while the engine prepares the next batch. */
    @Override
    public void handleBatch(List<ChangeEvent<String, String>> changes, RecordCommitter<ChangeEvent<String, String>> committer) {
        var rows = new StringBuilder();
        for (var change : changes) {
            if (change.value() != null) {
                rows.append(change.value()).append('\n');
            }
        }
        written.join();
        var post = request.copy().POST(BodyPublishers.ofString(rows.toString())).build();
        written = client.sendAsync(post, BodyHandlers.ofString())
            .thenAccept(ClickHouse::check)
            .thenRun(() -> Pipeline.commit(changes, committer));
    }

    private static void check(HttpResponse<String> answer) {
        if (answer.statusCode() != 200) {
            throw new IllegalStateException("ClickHouse says " + answer.body());
        }
    }
}
