import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Account, type Tokens } from '../account.js';
import { Refused } from '../sync-http.js';

/** Answers logins and refreshes as the server does; `answers` says what else is answered, first come, first served. */
function server(answers: Response[] = []) {
  const asked: string[] = [];
  let number = 0;
  const answer = async (url: string | URL | Request, init?: RequestInit) => {
    asked.push(`${new URL(String(url)).pathname} ${init?.body}`);
    number += 1;
    const tokens = { access_token: `access ${number}`, token_type: 'Bearer', expires_in: 900, refresh_token: `refresh ${number}` };
    return answers.shift() ?? Response.json(tokens);
  };
  return { asked, fetch: answer as typeof fetch };
}

const problem = (status: number, headers: Record<string, string> = {}) => Response.json({ status, detail: 'so it is' }, { status, headers });
const soon: Tokens = { accessToken: 'access', refreshToken: 'refresh', renewAt: 0 };

test('a token is given until it is about to end, and there is one refresh at a time', async () => {
  const { asked, fetch } = server();
  const account = new Account({ url: 'http://server', fetch });
  await account.login('a@example.com', 'a password');
  assert.equal(await account.token(false), 'access 1');
  assert.deepEqual(await Promise.all([account.token(true), account.token(true), account.token(true)]), Array(3).fill('access 2'));
  assert.deepEqual(asked.slice(1), ['/auth/refresh {"refresh_token":"refresh 1"}']);
});

test('a token that is about to end is renewed, and kept', async () => {
  const kept: (Tokens | undefined)[] = [];
  const { asked, fetch } = server();
  const account = new Account({ url: 'http://server', fetch, tokens: soon, onTokens: (tokens) => kept.push(tokens) });
  assert.equal(await account.token(false), 'access 1');
  assert.equal(kept[0]?.refreshToken, 'refresh 1');
  assert.equal(await account.token(false), 'access 1');
  assert.equal(asked.length, 1);
});

test('a session that the server has ended is forgotten, and what it cannot say just now is not', async () => {
  const kept: (Tokens | undefined)[] = [];
  const { fetch } = server([problem(503, { 'Retry-After': '5' }), problem(401)]);
  const account = new Account({ url: 'http://server', fetch, tokens: soon, onTokens: (tokens) => kept.push(tokens) });
  await assert.rejects(account.token(false), (error: Refused) => error.status === 503 && error.retryAfterMs === 5000 && error.message === 'so it is');
  assert.deepEqual(kept, []);
  await assert.rejects(account.token(false), Refused);
  assert.deepEqual(kept, [undefined]);
});

test('who logs out during a refresh stays logged out', async () => {
  const kept: (Tokens | undefined)[] = [];
  const account = new Account({ url: 'http://server', fetch: server().fetch, tokens: soon, onTokens: (tokens) => kept.push(tokens) });
  const refreshing = account.token(false);
  await account.logout();
  await assert.rejects(refreshing);
  assert.deepEqual(kept, [undefined]);
  await assert.rejects(account.token(false), /nobody is logged in/);
});

test('claims are those of the token, in whatever alphabet', async () => {
  const claims = { sub: 'x', email: 'jürgen@пример.example' };
  const accessToken = `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.c2ln`;
  assert.deepEqual(new Account({ url: '', tokens: { ...soon, accessToken } }).claims, claims);
});
