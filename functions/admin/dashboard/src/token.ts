/** Where the token of whoever signed in on this tab is, in the tab's own storage. */
export const TOKEN_KEY = 'sluice.token';
