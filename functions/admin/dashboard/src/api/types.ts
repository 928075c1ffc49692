export type Role = 'operator' | 'reader';

export interface Session {
  role: Role;
  actor: string;
  demo: boolean;
  version: string;
}

export interface OutboxRow {
  id: number;
  stream: string;
  key: string | null;
  op: 'upsert' | 'delete' | 'fan_out';
  created_at: string;
  /** Only the subscriptions that read this row. */
  published: Record<string, boolean>;
}

export interface OutboxPage {
  rows: OutboxRow[];
  next_before: number | null;
}

export interface Letter {
  message_id: string;
  stream: string | null;
  key: string | null;
  version: number | null;
  change_id: number | null;
  op: 'upsert' | 'delete' | 'read' | 'look' | null;
  error_type: string;
  /** Null for the reader, as are the document and the body: it may quote the document. */
  reason: string | null;
  first_seen: string | null;
  failed_at: string | null;
  attempts: number | null;
  /** Null also when it is too long to be listed, which its length tells. */
  document: unknown;
  document_bytes?: number | null;
  /** The message as it came, of a letter that could not be parsed. */
  body: string | null;
}

export interface Letters {
  letters: Letter[];
  depth: number;
  is_sample: boolean;
}

export interface Redriven {
  message_id: string;
  stream: string | null;
  key: string | null;
  result: 'redriven' | 'returned' | 'already_redriven';
  change_id: number | null;
  redriven_at: string;
  by: string;
}

export interface RedriveFilter {
  stream?: string;
  error_type?: string;
  key?: string;
  message_ids?: string[];
}

export interface RedriveMatch {
  dry_run: true;
  matched: number;
  is_sample: boolean;
}

export interface RedriveTask {
  task: string;
  state: 'running' | 'done' | 'cancelled';
  redriven: number;
  already_redriven: number;
  /** Letters in the queue when it began, whether they are meant or not. */
  total: number;
  started_at: string;
  updated_at: string;
  by: string;
  /** While it is running: what stopped it for now. When it is done: why some letters may be left. */
  error: string | null;
}

export interface Discarded {
  message_id: string;
  stream: string | null;
  key: string | null;
  result: 'discarded';
}

/** What became of the profiles of one round. */
export interface Round {
  fetched: number;
  synced: number;
  outdated: number;
  duplicate: number;
  rejected: number;
}

export interface Position {
  source: string;
  since: string | null;
  /** Pages that were read of a chain whose end is still to come. */
  chain_pages: number;
  last_run_at: string | null;
  /** A round is under way, and has ended by then. If that is past, it was killed. */
  ends_by: string | null;
  last_success_at: string | null;
  last_duration_ms: number | null;
  last_counts: Round | null;
  last_error: string | null;
  last_error_at: string | null;
  /** In a row, up to now. */
  failures: number;
  not_before: string | null;
  requested_at: string | null;
}

export interface IngestStatus {
  /** The source that was read last comes first. */
  positions: Position[];
  totals: {
    fetched: number;
    synced: number;
    skipped_outdated: number;
    skipped_duplicate: number;
    rejected_invalid: number;
    rejected_conflict: number;
    rejects_dropped: number;
    rounds_failed: number;
  };
  open_rejects: number;
}

export interface IngestRequest {
  source: string;
  requested_at: string;
}

export interface Reject {
  id: number;
  profile_id: string | null;
  last_updated_at: string | null;
  reason: string;
  message: string;
  /** As it came; null for the reader, and when it is too long to be listed, which its length tells. */
  payload: string | null;
  payload_bytes: number;
  times: number;
  first_at: string;
  last_at: string;
  /** When a profile of this id was stored that is not older. */
  resolved_at: string | null;
}

export interface RejectsPage {
  rejects: Reject[];
  next_before: number | null;
}

export interface DemoChange {
  user: string;
  stream: string;
  key: string;
  name: string;
  projects: string[];
  hackathons: string[];
  log_rows: { id: number; stream: string; key: string | null; op: string }[];
}

export interface Subscription {
  name: string;
  paused: boolean;
  pending_rows: number;
  oldest_pending_ms: number | null;
  position: string;
  after_id: number;
}

export interface Subscriptions {
  subscriptions: Subscription[];
}

export interface Stream {
  name: string;
  source: string | null;
  key: string | null;
  index: string | null;
  /** Whether the index has the mapping that the stream has now. */
  is_current: boolean;
  tables: string[];
  untracked_tables: string[];
  waiting: number;
  expansions: number;
  last_error: string | null;
  /** Why it does not keep up. */
  problem: string | null;
  source_count: number | null;
  source_count_is_estimate: boolean;
  index_count: number | null;
}

export interface Streams {
  streams: Stream[];
}

export interface Sample {
  at: string;
  pending_rows: number;
  oldest_pending_ms: number | null;
  /** This and the next two count since the sample before. */
  processed: number;
  failed: number;
  dead_lettered: number;
  /** From the commit until the document is in the index. */
  p50_ms: number | null;
  p95_ms: number | null;
}

export interface History {
  samples: Sample[];
}

export interface AuditEntry {
  id: number;
  at: string;
  actor: string;
  source_ip: string | null;
  action: string;
  subject: string;
  result: string;
  detail: Record<string, unknown> | null;
}

export interface AuditPage {
  entries: AuditEntry[];
  next_before: number | null;
}

export interface Part {
  name: string;
  ok: boolean;
  latency_ms: number;
  reason: string | null;
}

export interface Pipeline {
  pending_rows: number;
  oldest_pending_ms: number | null;
  queue_depth: number;
  dead_letters: number;
}

export interface Health {
  status: 'ok' | 'degraded';
  version: string;
  commit: string;
  parts: Part[];
  /** Those that do not keep up, though the servers answer. */
  streams: { stream: string; reason: string }[];
  pipeline: Pipeline | null;
}
