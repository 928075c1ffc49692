import java.io.ByteArrayInputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;

import de.bwaldvogel.mongo.MongoCollection;
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.AbstractCursor;
import de.bwaldvogel.mongo.backend.Cursor;
import de.bwaldvogel.mongo.backend.CursorRegistry;
import de.bwaldvogel.mongo.backend.aggregation.Aggregation;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import de.bwaldvogel.mongo.bson.BsonTimestamp;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.exception.MongoServerError;
import de.bwaldvogel.mongo.oplog.Oplog;
import io.netty.channel.Channel;

/**
 * A MongoDB for tests: mongo-java-server, and what its change streams lack of those of a replica set. Its own have no token before
 * the first event, no key in an update, no invalidate in the stream, and go on from any token, however old.
 *
 * Arguments: a port without TLS, one with it, and the files with its certificate and its key.
 */
final class MongoDB extends MemoryBackend {
    private final OperationLog log = new OperationLog();

    public static void main(String[] arguments) throws Exception {
        MongoDB backend = new MongoDB();
        backend.version(new MongoVersion() {
            @Override
            public List<Integer> getVersionArray() {
                return List.of(5, 0, 0);
            }

            @Override
            public int getWireVersion() {
                return 13; // that of 5.0, which the library has too low for drivers of today
            }
        });
        backend.enableOplog();
        new MongoServer(backend).bind("127.0.0.1", Integer.parseInt(arguments[0]));
        MongoServer withTls = new MongoServer(backend);
        byte[] certificate = Files.readAllBytes(Path.of(arguments[2]));
        X509Certificate[] chain = CertificateFactory.getInstance("X.509").generateCertificates(new ByteArrayInputStream(certificate))
            .stream().map(X509Certificate.class::cast).toArray(X509Certificate[]::new);
        withTls.enableSsl(key(Path.of(arguments[3])), null, chain);
        withTls.bind("127.0.0.1", Integer.parseInt(arguments[1]));
    }

    private static PrivateKey key(Path file) throws Exception {
        String text = Files.readString(file).replaceAll("-----[A-Z ]+-----|\\s", "");
        PKCS8EncodedKeySpec encoded = new PKCS8EncodedKeySpec(Base64.getDecoder().decode(text));
        for (String algorithm : List.of("EC", "RSA", "Ed25519")) {
            try {
                return KeyFactory.getInstance(algorithm).generatePrivate(encoded);
            } catch (java.security.spec.InvalidKeySpecException another) {
                continue;
            }
        }
        throw new IllegalArgumentException("no key of EC, RSA or Ed25519: " + file);
    }

    @Override
    protected Oplog createOplog() {
        return log;
    }

    /** One command after the other: a change and its entry in the log are one. */
    @Override
    public synchronized Document handleCommand(Channel channel, String database, String command, Document query) {
        if (command.equalsIgnoreCase("renameCollection")) {
            String from = (String) query.get(command);
            Document renamed = super.handleCommand(channel, database, command, query);
            log.append("rename", from, null, null, null);
            return timed(renamed);
        }
        leaveOutTypes(query);
        // As a server answers that does not know yet what others know.
        log.isOff = "unlogged".equals(query.get("comment"));
        Document response = super.handleCommand(channel, database, command, query);
        log.isOff = false;
        if (response.get("cursor") instanceof Document cursor) {
            long id = ((Number) cursor.get("id")).longValue();
            Following following = log.last;
            if (following != null && following.getId() == id) {
                cursor.put("postBatchResumeToken", token(following.position));
            }
            if (following != null && following.isEnded) {
                cursor.put("id", 0L);
            }
            log.last = null;
        }
        return timed(response);
    }

    /** The library does not know those by name that nobody writes any more. */
    private static void leaveOutTypes(Object part) {
        if (part instanceof Document document) {
            if (document.get("$type") instanceof Collection<?> types) {
                document.put("$type", types.stream().filter(type -> !List.of("undefined", "symbol").contains(type)).collect(Collectors.toList()));
            }
            document.values().forEach(MongoDB::leaveOutTypes);
        } else if (part instanceof Collection<?> parts) {
            parts.forEach(MongoDB::leaveOutTypes);
        }
    }

    /** With the time of the last operation, as members of a replica set answer. */
    private Document timed(Document response) {
        response.put("operationTime", new BsonTimestamp(log.newest()));
        return response;
    }

    private static Document token(long position) {
        return new Document("_data", String.format("%016x", position));
    }

    private static final class Entry {
        long time;
        String operation;
        String namespace;
        Object key;
        Document document;
        Document updated;
    }

    private final class OperationLog implements Oplog {
        private final List<Entry> entries = new ArrayList<>();
        private final AtomicInteger increment = new AtomicInteger();
        private boolean isOff;
        /** What the command under way reads of. */
        private Following last;

        OperationLog() {
            append("noop", "", null, null, null);
        }

        long newest() {
            return entries.get(entries.size() - 1).time;
        }

        void append(String operation, String namespace, Object key, Document document, Document updated) {
            if (isOff) {
                return;
            }
            Entry entry = new Entry();
            entry.time = new BsonTimestamp(Instant.now(), increment.incrementAndGet()).getValue();
            entry.operation = operation;
            entry.namespace = namespace;
            entry.key = key;
            entry.document = document == null ? null : document.cloneDeeply();
            entry.updated = updated;
            entries.add(entry);
        }

        @Override
        public void handleInsert(String namespace, List<Document> documents) {
            for (Document document : documents) {
                // Those are among them, too, whose key was there already.
                if (document.equals(find(namespace, document.get("_id")))) {
                    append("insert", namespace, document.get("_id"), document, null);
                }
            }
        }

        @Override
        public void handleUpdate(String namespace, Document selector, Document query, List<Object> ids) {
            boolean isUpdate = query.keySet().stream().anyMatch(name -> name.startsWith("$"));
            for (Object id : ids) {
                append(isUpdate ? "update" : "replace", namespace, id, isUpdate ? null : find(namespace, id), query);
            }
        }

        @Override
        public void handleDelete(String namespace, Document query, List<Object> ids) {
            ids.forEach(id -> append("delete", namespace, id, null, null));
        }

        @Override
        public void handleDropCollection(String namespace) {
            append("drop", namespace, null, null, null);
        }

        Document find(String namespace, Object id) {
            int dot = namespace.indexOf('.');
            MongoCollection<?> collection = resolveDatabase(namespace.substring(0, dot)).resolveCollection(namespace.substring(dot + 1), false);
            if (collection == null) {
                return null;
            }
            return collection.handleQueryAsStream(new Document("_id", id)).findFirst().map(Document::cloneDeeply).orElse(null);
        }

        @Override
        public Cursor createCursor(Document options, String namespace, Aggregation aggregation) {
            Document token = (Document) options.get(options.get("startAfter") != null ? "startAfter" : "resumeAfter");
            BsonTimestamp at = (BsonTimestamp) options.get("startAtOperationTime");
            long position = token != null ? Long.parseUnsignedLong((String) token.get("_data"), 16) : at != null ? at.getValue() - 1 : newest();
            if (Long.compareUnsigned(position + 1, entries.get(0).time) < 0) {
                throw new MongoServerError(286, "ChangeStreamHistoryLost",
                    "Resume of change stream was not possible, as the resume point may no longer be in the oplog.");
            }
            Following following = new Following(getCursorRegistry(), this, namespace, position, aggregation);
            getCursorRegistry().add(following);
            return following;
        }
    }

    /** A change stream. */
    private static final class Following extends AbstractCursor {
        private final OperationLog log;
        private final String namespace;
        private final Aggregation aggregation;
        private long position;
        private boolean isEnded;

        Following(CursorRegistry registry, OperationLog log, String namespace, long position, Aggregation aggregation) {
            super(registry.generateCursorId());
            this.log = log;
            this.namespace = namespace;
            this.position = position;
            this.aggregation = aggregation;
        }

        @Override
        public boolean isEmpty() {
            return isEnded;
        }

        @Override
        public List<Document> takeDocuments(int most) {
            log.last = this;
            long until = log.newest();
            List<Document> events = new ArrayList<>();
            for (Entry entry : log.entries) {
                if (Long.compareUnsigned(entry.time, position) <= 0 || !entry.namespace.equals(namespace)) {
                    continue;
                }
                events.add(event(entry, entry.operation));
                if (List.of("drop", "rename").contains(entry.operation)) {
                    events.add(event(entry, "invalidate"));
                    isEnded = true;
                }
                if (isEnded || most > 0 && events.size() >= most) {
                    until = entry.time;
                    break;
                }
            }
            position = until;
            return aggregation.runStagesAsStream(events.stream()).collect(Collectors.toList());
        }

        private Document event(Entry entry, String operation) {
            Document event = new Document("_id", token(entry.time));
            event.append("operationType", operation).append("clusterTime", new BsonTimestamp(entry.time));
            if (entry.key == null) {
                return event;
            }
            if (!operation.equals("delete")) {
                event.append("fullDocument", operation.equals("update") ? log.find(entry.namespace, entry.key) : entry.document);
            }
            int dot = entry.namespace.indexOf('.');
            event.append("ns", new Document("db", entry.namespace.substring(0, dot)).append("coll", entry.namespace.substring(dot + 1)));
            event.append("documentKey", new Document("_id", entry.key));
            if (operation.equals("update")) {
                event.append("updateDescription", new Document("updatedFields", entry.updated.cloneDeeply()).append("removedFields", List.of()));
            }
            return event;
        }
    }
}
