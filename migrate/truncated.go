package migrate

import (
	"context"
	"fmt"
	"strings"

	"github.com/slipway-db/slipway/migrate/verify"
)

// decodesTruncate is the first major whose stream tells of TRUNCATE.
const decodesTruncate = 11

// TruncatedError says that tables do not have the rows of a source whose stream does not tell of TRUNCATE.
type TruncatedError struct {
	Tables []string
}

// Error names the tables with their rows on both sides.
func (e *TruncatedError) Error() string {
	return fmt.Sprintf("tables do not have the same number of rows on both sides: %s. The source does not tell of TRUNCATE, which is new in "+
		"PostgreSQL %d. Nothing is lost on the source: do the same on the target and run again, or give up with slipway migrate abort and start anew",
		strings.Join(e.Tables, "; "), decodesTruncate)
}

// countRows compares the number of rows of every table once nobody writes, where a TRUNCATE would not be in the stream.
func (a *attempt) countRows(ctx context.Context) (detail string, err error) {
	report, err := verify.Run(ctx, verify.Config{
		Source: connector(a.source), Target: connector(a.target), Mode: verify.Rows, Tables: pairs(a.catalog),
	})
	if err != nil {
		return "", err
	}
	if len(report.Errors) > 0 {
		return "", fmt.Errorf("count rows: %s", strings.Join(report.Errors, "; "))
	}
	different := &TruncatedError{}
	for _, t := range report.Tables {
		switch t.Result {
		case verify.Different:
			different.Tables = append(different.Tables, fmt.Sprintf("%s (%d rows, %d on the target)", t.Name, t.SourceRows, t.TargetRows))
		case verify.Failed:
			return "", fmt.Errorf("count rows of %s: %s", t.Name, t.Err)
		}
	}
	if len(different.Tables) > 0 {
		return "", different
	}
	return fmt.Sprintf("%d tables", len(report.Tables)), nil
}
