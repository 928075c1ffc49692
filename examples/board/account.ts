/** An account that the server of live sync has itself, `SYNC_AUTH=builtin`: docs/live-sync.md says what is asked and answered. */

import { Refused, ask, parse } from './sync-http.js';

/** To be kept between two starts. `renewAt`: milliseconds since 1970. */
export type Tokens = { accessToken: string; refreshToken: string; renewAt: number };

export interface AccountOptions {
  url: string;
  /** Those of an earlier start. */
  tokens?: Tokens | undefined;
  /** They are other ones. `undefined`: the session has ended, and it wants a login. */
  onTokens?(tokens: Tokens | undefined): void;
  fetch?: typeof fetch;
}

const RENEW_BEFORE_MS = 120_000;
const TIMEOUT_MS = 30_000;

export class Account {
  private tokens: Tokens | undefined;
  /** A refresh token is used once, so there is one refresh at a time. */
  private refresh: Promise<string> | undefined;

  constructor(private readonly options: AccountOptions) {
    this.tokens = options.tokens;
  }

  /** Whether there was such an account already is not told: see whether `login` works. */
  async register(email: string, password: string): Promise<void> {
    await this.post('register', { email, password });
  }

  async login(email: string, password: string): Promise<void> {
    this.keep(await this.post('login', { email, password }));
  }

  /** Forgets the tokens, whatever the server says. */
  async logout(): Promise<void> {
    const tokens = this.tokens;
    this.set(undefined);
    if (tokens) await this.post('logout', { refresh_token: tokens.refreshToken });
  }

  /** What the token says of its bearer, `sub` and `email` among it; undefined if nobody is logged in. */
  get claims(): { sub: string; email: string } | undefined {
    const payload = this.tokens?.accessToken.split('.')[1];
    if (payload === undefined) return undefined;
    const binary = atob(payload.replaceAll('-', '+').replaceAll('_', '/'));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(binary, (character) => character.charCodeAt(0))));
  }

  /** For `SyncClient`: the token, renewed if it ends soon or was refused. */
  readonly token = async (isRefused: boolean): Promise<string> => {
    if (!this.tokens) throw new Error('nobody is logged in');
    if (!isRefused && Date.now() < this.tokens.renewAt) return this.tokens.accessToken;
    this.refresh ??= this.renew(this.tokens.refreshToken).finally(() => (this.refresh = undefined));
    return this.refresh;
  };

  private async renew(refreshToken: string): Promise<string> {
    const isStill = () => this.tokens?.refreshToken === refreshToken; // and nobody has logged out meanwhile
    try {
      const text = await this.post('refresh', { refresh_token: refreshToken });
      if (!isStill()) throw new Error('the session has ended');
      return this.keep(text);
    } catch (error) {
      if (error instanceof Refused && error.status === 401 && isStill()) this.set(undefined);
      throw error;
    }
  }

  private async post(path: string, body: object): Promise<string> {
    const { url, fetch = globalThis.fetch } = this.options;
    const init = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) };
    return (await ask(fetch, `${url}/auth/${path}`, init, TIMEOUT_MS)).text;
  }

  private keep(text: string): string {
    const answer = parse<{ access_token: string; refresh_token: string; expires_in: number }>(text);
    const renewAt = Date.now() + Math.max(answer.expires_in * 1000 - RENEW_BEFORE_MS, 0);
    this.set({ accessToken: answer.access_token, refreshToken: answer.refresh_token, renewAt });
    return answer.access_token;
  }

  private set(tokens: Tokens | undefined): void {
    this.tokens = tokens;
    this.options.onTokens?.(tokens);
  }
}
