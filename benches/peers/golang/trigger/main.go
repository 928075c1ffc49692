// The trigger is a Lambda function that sends the outbox to SQS, a message an event.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"peers/outbox"
)

const (
	batch   = 10 // the most that SQS takes
	senders = 10
	pause   = 100 * time.Millisecond
	margin  = 5 * time.Second // before Lambda ends the invocation
)

type trigger struct {
	db    *pgxpool.Pool
	queue *sqs.Client
	url   string
	stay  time.Duration // after the outbox was empty: what comes meanwhile need not wait for the next invocation
}

func main() {
	ctx := context.Background()
	db, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	account, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		log.Fatal(err)
	}
	stay, err := time.ParseDuration(os.Getenv("STAY"))
	if err != nil {
		log.Fatal(err)
	}
	// The bench's queue computes no checksums, and the Rust SDK compares none.
	queue := sqs.NewFromConfig(account, func(options *sqs.Options) { options.DisableMessageChecksumValidation = true })
	lambda.Start((&trigger{db, queue, os.Getenv("QUEUE_URL"), stay}).handle)
}

func (t *trigger) handle(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	leave := time.Now().Add(t.stay)
	for time.Until(deadline) > margin {
		sent, err := outbox.Publish(ctx, t.db, t.send)
		if err != nil {
			return err
		}
		if sent == 0 {
			if time.Now().After(leave) {
				return nil
			}
			time.Sleep(pause)
		}
	}
	return nil
}

func (t *trigger) send(ctx context.Context, events []outbox.Event) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(senders)
	for some := range slices.Chunk(events, batch) {
		group.Go(func() error { return t.sendBatch(ctx, some) })
	}
	return group.Wait()
}

func (t *trigger) sendBatch(ctx context.Context, events []outbox.Event) error {
	entries := make([]types.SendMessageBatchRequestEntry, len(events))
	for i, event := range events {
		body, err := json.Marshal(event)
		if err != nil {
			return err
		}
		entries[i] = types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(string(body))}
	}
	answer, err := t.queue.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: &t.url, Entries: entries})
	if err != nil {
		return err
	}
	if len(answer.Failed) > 0 {
		return fmt.Errorf("SQS refused %d of %d messages: %s", len(answer.Failed), len(events), aws.ToString(answer.Failed[0].Message))
	}
	return nil
}
