import { useEffect, useRef, useState } from 'react';
import { useLive } from '../api/live';
import type { Streams } from '../api/types';
import { titleOf } from '../targets';

interface FieldProps {
  label: string;
  value: string;
  placeholder?: string;
  isWide?: boolean;
  suggestions?: string[];
  onChange: (value: string) => void;
}

const TYPING_MS = 300;

/** Says what was typed once the typing rests: each value is a request. */
export function TextFilter({ label, value, placeholder, isWide, suggestions, onChange }: FieldProps) {
  const [typed, setTyped] = useState(value);
  const said = useRef(value);
  const change = useRef(onChange);
  change.current = onChange;
  const listId = `suggestions-${label.replaceAll(' ', '-').toLowerCase()}`;

  // What comes back is what was said; only a value from elsewhere replaces what is being typed.
  useEffect(() => {
    if (value !== said.current) {
      said.current = value;
      setTyped(value);
    }
  }, [value]);
  useEffect(() => {
    const text = typed.trim();
    if (text === said.current) {
      return;
    }
    const timer = setTimeout(() => {
      said.current = text;
      change.current(text);
    }, TYPING_MS);
    return () => clearTimeout(timer);
  }, [typed]);

  return (
    <label className={isWide ? 'field is-wide' : 'field'}>
      <span>{label}</span>
      <input
        type="search"
        value={typed}
        placeholder={placeholder}
        spellCheck={false}
        autoComplete="off"
        list={suggestions && listId}
        onChange={(event) => setTyped(event.target.value)}
      />
      {suggestions && (
        <datalist id={listId}>
          {suggestions.map((suggestion) => (
            <option key={suggestion} value={suggestion} />
          ))}
        </datalist>
      )}
    </label>
  );
}

export function StreamFilter({ value, onChange }: { value: string; onChange: (value: string) => void }) {
  const streams = useLive<Streams>('/api/streams', 0).data?.streams ?? [];
  return <StreamSelect value={value} streams={[...new Set(streams.map(({ name }) => name))]} onChange={onChange} />;
}

interface SelectProps {
  value: string;
  streams: string[];
  onChange: (value: string) => void;
}

/** Of these streams one, or all. */
export function StreamSelect({ value, streams, onChange }: SelectProps) {
  // A link may name a stream that is not defined any more.
  const names = value && !streams.includes(value) ? [...streams, value] : streams;
  return (
    <label className="field">
      <span>Stream</span>
      <select value={value} onChange={(event) => onChange(event.target.value)}>
        <option value="">All streams</option>
        {names.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}

interface TargetProps {
  value: string;
  targets: string[];
  /** What it says where none is chosen; without it one always is. */
  all?: string;
  onChange: (value: string) => void;
}

export function TargetFilter({ value, targets, all, onChange }: TargetProps) {
  return (
    <label className="field">
      <span>Target</span>
      <select value={value} onChange={(event) => onChange(event.target.value)}>
        {all && <option value="">{all}</option>}
        {targets.map((target) => (
          <option key={target} value={target}>
            {titleOf(target)}
          </option>
        ))}
      </select>
    </label>
  );
}
