// The indexer is a Lambda function that writes a batch of messages by one bulk request.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/elastic/go-elasticsearch/v8"

	"peers/outbox"
)

type indexer struct {
	search *elasticsearch.Client
	index  string
}

type action struct {
	ID          string `json:"_id"`
	Version     int64  `json:"version"`
	VersionType string `json:"version_type"`
}

type answer struct {
	Items []map[string]struct {
		Status int `json:"status"`
	} `json:"items"`
}

func main() {
	search, err := elasticsearch.NewClient(elasticsearch.Config{Addresses: []string{os.Getenv("ELASTICSEARCH_URL")}})
	if err != nil {
		log.Fatal(err)
	}
	lambda.Start((&indexer{search, os.Getenv("INDEX")}).handle)
}

func (x *indexer) handle(ctx context.Context, batch events.SQSEvent) (response events.SQSEventResponse, err error) {
	changes := make([]outbox.Event, len(batch.Records))
	for i, record := range batch.Records {
		if err := json.Unmarshal([]byte(record.Body), &changes[i]); err != nil {
			return response, err
		}
	}
	statuses, err := x.write(ctx, changes)
	if err != nil {
		return response, err
	}
	for i, record := range batch.Records {
		if !changes[i].IsWritten(statuses[i]) {
			response.BatchItemFailures = append(response.BatchItemFailures, events.SQSBatchItemFailure{ItemIdentifier: record.MessageId})
		}
	}
	return response, nil
}

func (x *indexer) write(ctx context.Context, changes []outbox.Event) ([]int, error) {
	var body bytes.Buffer
	lines := json.NewEncoder(&body)
	for _, change := range changes {
		op := "index"
		if change.IsDelete() {
			op = "delete"
		}
		if err := lines.Encode(map[string]action{op: {change.Key, change.ID, "external_gte"}}); err != nil {
			return nil, err
		}
		if !change.IsDelete() {
			body.Write(change.Document)
			body.WriteByte('\n')
		}
	}
	bulk := x.search.Bulk
	told, err := bulk(&body, bulk.WithContext(ctx), bulk.WithIndex(x.index), bulk.WithFilterPath("items.*.status"))
	if err != nil {
		return nil, err
	}
	defer told.Body.Close()
	if told.IsError() {
		return nil, fmt.Errorf("Elasticsearch says %s", told.String())
	}
	var read answer
	if err := json.NewDecoder(told.Body).Decode(&read); err != nil {
		return nil, err
	}
	statuses := make([]int, 0, len(changes))
	for _, item := range read.Items {
		for _, outcome := range item {
			statuses = append(statuses, outcome.Status)
		}
	}
	if len(statuses) != len(changes) {
		return nil, fmt.Errorf("Elasticsearch tells of %d of %d documents", len(statuses), len(changes))
	}
	return statuses, nil
}
