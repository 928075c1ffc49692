import type { ReactNode } from 'react';

export interface Column<Row> {
  name: string;
  /** Of a column whose name says nothing to those who see it, as that of the buttons. */
  isNameHidden?: boolean;
  header?: ReactNode;
  kind?: 'number' | 'text' | 'actions' | 'check';
  cell: (row: Row) => ReactNode;
}

interface Props<Row> {
  caption: string;
  columns: Column<Row>[];
  rows: Row[];
  id: (row: Row) => string | number;
  /** Rows that were not there when the table was first seen. */
  isNew?: (row: Row) => boolean;
}

/** A table that becomes a card for each row on a narrow screen. The roles are said, since browsers forget what a table
 *  is when its display is another. */
export function Table<Row>({ caption, columns, rows, id, isNew }: Props<Row>) {
  return (
    <div className="table-region" role="region" aria-label={caption} tabIndex={0}>
      <table role="table">
        <caption className="visually-hidden">{caption}</caption>
        <thead role="rowgroup">
          <tr role="row">
            {columns.map(({ name, isNameHidden, header, kind = 'text' }) => (
              <th key={name} role="columnheader" scope="col" className={kind}>
                {header ?? (isNameHidden ? <span className="visually-hidden">{name}</span> : name)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {rows.map((row) => (
            <tr role="row" key={id(row)} data-row={id(row)} className={isNew?.(row) ? 'is-new' : undefined}>
              {columns.map(({ name, isNameHidden, kind = 'text', cell }) => (
                <td key={name} role="cell" className={kind} data-name={isNameHidden ? undefined : name}>
                  {cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
