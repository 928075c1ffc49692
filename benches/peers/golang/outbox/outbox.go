// Package outbox reads the table that the hand-written trigger writes.
package outbox

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	page = 1000
	take = `SELECT id, key, op, document FROM demo.outbox WHERE published_at IS NULL ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED`
	mark = `UPDATE demo.outbox SET published_at = now() WHERE id = ANY($1)`
)

// Event is a row of the outbox, and the body of its message. Its id is the document's version: what travels may be overtaken.
type Event struct {
	ID       int64           `json:"id"`
	Key      string          `json:"key"`
	Op       string          `json:"op"`
	Document json.RawMessage `json:"document"`
}

// IsDelete says that the document is gone.
func (e Event) IsDelete() bool { return e.Op == "delete" }

// IsWritten says whether the index has the event, or a later one, once Elasticsearch has answered so.
func (e Event) IsWritten(status int) bool {
	return status < 300 || status == 409 || status == 404 && e.IsDelete()
}

// Publish hands a page of events over and marks them in the same transaction. It says how many they were.
func Publish(ctx context.Context, db *pgxpool.Pool, publish func(context.Context, []Event) error) (int, error) {
	var events []Event
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, take, page)
		if err != nil {
			return err
		}
		if events, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Event]); err != nil || len(events) == 0 {
			return err
		}
		if err := publish(ctx, events); err != nil {
			return err
		}
		ids := make([]int64, len(events))
		for i, event := range events {
			ids[i] = event.ID
		}
		_, err = tx.Exec(ctx, mark, ids)
		return err
	})
	return len(events), err
}
