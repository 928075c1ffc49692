/**
 * Has the page told that two streams go to clients, or these, whatever the stack has: three buckets, and three conflicts.
 * @param {import('playwright-core').Page} page
 * @param {string[]} streams
 * @returns {Promise<{ asked: string[] }>} what it asked for
 */
export async function clients(page, streams = ['books', 'notes']) {
  /** @type {string[]} */
  const asked = [];
  await page.route(/\/api\/sync\b/, (route) => {
    const { pathname, search, searchParams } = new URL(route.request().url());
    asked.push(pathname + search);
    const body = pathname.endsWith('/buckets')
      ? buckets(searchParams)
      : pathname.endsWith('/conflicts')
        ? { conflicts: CONFLICTS.filter(({ stream }) => stream === (searchParams.get('stream') ?? stream)), next_before: null }
        : { ...SUMMARY, streams };
    return route.fulfill({ status: 200, contentType: 'application/json', body: JSON.stringify(body) });
  });
  return { asked };
}

const SUMMARY = {
  connected: 1204,
  buckets: 3,
  items: 4711,
  is_estimate: false,
  accounts: 9,
  conflicts: 17,
  conflicts_of_day: 3,
  paused: false,
  pending_rows: 12,
  lag_ms: 1500,
};

const BUCKETS = [
  { stream: 'books', bucket: 'tenant-1', items: 4100, seq: 81_273, checksum: 3_735_928_559 },
  { stream: 'books', bucket: 'tenant-2', items: 600, seq: 80_112, checksum: 123_456_789 },
  { stream: 'notes', bucket: 'a "b" [c]', items: 11, seq: 4, checksum: 0 },
];

/** Two of them on a page. */
function buckets(/** @type {URLSearchParams} */ asked) {
  if (asked.get('after') !== null) {
    return { buckets: BUCKETS.slice(2), next_after: null };
  }
  return asked.get('stream') === 'notes'
    ? { buckets: BUCKETS.slice(2), next_after: null }
    : { buckets: BUCKETS.slice(0, 2), next_after: '["books","tenant-2"]' };
}

const CONFLICT = {
  number: 17,
  at: '2026-03-01T12:00:00.000Z',
  stream: 'books',
  key: '42',
  subject: 'ada@example.org',
  op: 'update',
  applied: true,
  fields: '{"title": "Solaris, again", "pages": 9007199254740993, "language": "pl"}',
  fields_bytes: 73,
  document: '{"id": 42, "title": "Solaris", "pages": 9007199254740992, "language": "pl", "authors": [{"name": "Stanisław Lem"}]}',
  document_bytes: 115,
};

const CONFLICTS = [
  CONFLICT,
  { ...CONFLICT, number: 16, key: '43', subject: 'bob', op: 'delete', applied: false, fields: null, fields_bytes: null },
  { ...CONFLICT, number: 12, key: 'a-key-that-a-client-made-0192a1b2', applied: false, document: null, document_bytes: null },
];
