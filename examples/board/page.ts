/** Small things of a page. */

export const find = <E extends HTMLElement>(selector: string) => document.querySelector<E>(selector)!;

export function element<K extends keyof HTMLElementTagNameMap>(
  name: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function toast(words: string): void {
  const made = element('p', { textContent: words });
  find('#toasts').append(made);
  setTimeout(() => made.remove(), 12_000);
}
