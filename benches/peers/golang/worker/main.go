// The worker is always on: it polls the outbox and writes to the index.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/elastic/go-elasticsearch/v8"
	"github.com/elastic/go-elasticsearch/v8/esutil"
	"github.com/jackc/pgx/v5/pgxpool"

	"peers/outbox"
)

const pause = 100 * time.Millisecond

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	db, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	search, err := elasticsearch.NewClient(elasticsearch.Config{Addresses: []string{os.Getenv("ELASTICSEARCH_URL")}})
	if err != nil {
		return err
	}
	// Its defaults are what its documentation advises: a worker for each core, 5 MB for each flush.
	bulk, err := esutil.NewBulkIndexer(esutil.BulkIndexerConfig{Client: search, Index: os.Getenv("INDEX")})
	if err != nil {
		return err
	}
	publish := func(ctx context.Context, events []outbox.Event) error { return write(ctx, bulk, events) }
	for {
		published, err := outbox.Publish(ctx, db, publish)
		if err != nil {
			log.Print(err)
		}
		if published == 0 || err != nil {
			time.Sleep(pause)
		}
	}
}

func write(ctx context.Context, bulk esutil.BulkIndexer, events []outbox.Event) error {
	failures := make(chan error, len(events))
	for _, event := range events {
		item := esutil.BulkIndexerItem{
			Action:      "index",
			DocumentID:  event.Key,
			Version:     &event.ID,
			VersionType: "external_gte",
			OnFailure: func(_ context.Context, _ esutil.BulkIndexerItem, answer esutil.BulkIndexerResponseItem, err error) {
				if err == nil && !event.IsWritten(answer.Status) {
					err = fmt.Errorf("status %d, %s", answer.Status, answer.Error.Reason)
				}
				if err != nil {
					failures <- fmt.Errorf("document %s: %w", event.Key, err)
				}
			},
		}
		if event.IsDelete() {
			item.Action = "delete"
		} else {
			item.Body = bytes.NewReader(event.Document)
		}
		if err := bulk.Add(ctx, item); err != nil {
			return err
		}
	}
	if err := bulk.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}
