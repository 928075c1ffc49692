import { useMemo, useState } from 'react';
import { count, plural } from '../format';
import { placeAt, titleOf } from '../targets';
import { CopyButton } from '../ui/copy';
import { align, folded, LONGEST, type Pair, within } from './diff';
import type { Side } from './documents';

interface Props {
  source: Side;
  target: Side;
  /** Which target that is. */
  of: string;
}

/** Both documents beside each other, and which of their lines differ. */
export function BothSides({ source, target, of }: Props) {
  const [left, right] = [source.text, target.text];
  const pairs = useMemo(
    () => (left === null || right === null ? null : align(left.split('\n'), right.split('\n'))),
    [left, right],
  );
  if (pairs !== null) {
    return <Compared pairs={pairs} source={left ?? ''} target={right ?? ''} of={of} />;
  }
  return (
    <>
      {left !== null && right !== null && (
        <p className="hint">More than {count(LONGEST)} lines differ: they are shown without marks.</p>
      )}
      <div className="sides">
        <Alone id="side-source" name="Source" side={source} none="The source has no such document." />
        <Alone id="side-target" name={titleOf(of)} side={target} none={`The ${placeAt(of)} has no such document.`} />
      </div>
    </>
  );
}

function Alone({ id, name, side: { text, problem }, none }: { id: string; name: string; side: Side; none: string }) {
  return (
    <div>
      <div className="section-head">
        <h4 id={id}>{name}</h4>
        {text !== null && <CopyButton text={text} />}
      </div>
      {text !== null ? (
        <pre className="document" tabIndex={0} role="region" aria-labelledby={id}>
          {text}
        </pre>
      ) : (
        <p className="hint">{problem === null ? none : `It is not known: ${problem}`}</p>
      )}
    </div>
  );
}

function Compared({ pairs, source, target, of }: { pairs: Pair[]; source: string; target: string; of: string }) {
  const [isWhole, setWhole] = useState(false);
  const different = pairs.filter(({ isSame }) => !isSame).length;
  const parts = isWhole ? pairs : folded(pairs);
  const isFolded = parts.length < pairs.length || parts.some((part) => typeof part === 'number');
  return (
    <>
      <div className="section-head">
        <p role="status">
          {different === 0 ? 'Both sides are equal now.' : `${plural(different, 'line differs', 'lines differ')}.`}
        </p>
        {(isFolded || isWhole) && pairs.length <= LONGEST && (
          <button type="button" className="button quiet" onClick={() => setWhole(!isWhole)}>
            {isWhole ? 'Show what differs' : `Show all ${plural(pairs.length, 'line')}`}
          </button>
        )}
      </div>
      <div className="diff" role="table" aria-label="Both documents, line by line" tabIndex={0}>
        <div role="row" className="diff-head">
          <span role="columnheader">
            Source
            <CopyButton text={source} />
          </span>
          <span role="columnheader">
            {titleOf(of)}
            <CopyButton text={target} />
          </span>
        </div>
        {parts.map((part, index) =>
          typeof part === 'number' ? (
            <div key={index} role="row" className="diff-fold">
              <span role="cell" aria-colspan={2}>
                {plural(part, 'line is', 'lines are')} the same
              </span>
            </div>
          ) : (
            <Line key={index} pair={part} />
          ),
        )}
      </div>
    </>
  );
}

function Line({ pair: { left, right, isSame } }: { pair: Pair }) {
  if (isSame) {
    return (
      <div role="row" className="diff-line">
        <code role="cell">{left}</code>
        <code role="cell">{right}</code>
      </div>
    );
  }
  const { head, left: removed, right: added, tail } = within(left ?? '', right ?? '');
  const isPart = left !== null && right !== null;
  return (
    <div role="row" className="diff-line differs">
      <code role="cell">
        {left !== null && (
          <del>
            {head}
            {isPart ? <mark>{removed}</mark> : removed}
            {tail}
          </del>
        )}
      </code>
      <code role="cell">
        {right !== null && (
          <ins>
            {head}
            {isPart ? <mark>{added}</mark> : added}
            {tail}
          </ins>
        )}
      </code>
    </div>
  );
}
