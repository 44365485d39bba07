package postgres

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// Code is the SQLSTATE of err, or "" when the server sent none.
func Code(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// Retryable tells whether the same work may succeed on a new connection later: the connection was lost, or the
// server said by SQLSTATE that the cause passes (restart, too many connections, deadlock, lock wait, cancelled by an
// administrator, out of disk or memory). An error of unknown kind is not retryable.
func Retryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if code := Code(err); code != "" {
		return retryableCode(code)
	}
	return ConnectionLost(err)
}

func retryableCode(code string) bool {
	switch code[:2] {
	case "08", // connection exception
		"53": // insufficient resources: disk full, out of memory, too many connections
		return true
	}
	switch code {
	case "40001", "40P01", // serialization failure, deadlock
		"55P03", "55006", // lock not available, object in use (the slot is still held by a dying walsender)
		"57P01", "57P02", "57P03", "57P05", // shutdown, crash, cannot connect now, idle session timeout
		"57014",          // cancelled by an administrator or a timeout
		"25P03", "25P04", // idle in transaction timeout, transaction timeout
		"58030": // I/O error
		return true
	}
	return false
}

// ConnectionLost tells whether err means that the connection is gone or could not be made, whatever the reason.
func ConnectionLost(err error) bool {
	if err == nil {
		return false
	}
	if code := Code(err); code != "" {
		return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "57P")
	}
	if netErr, ok := errors.AsType[net.Error](err); ok && netErr != nil {
		return true
	}
	if connectErr, ok := errors.AsType[*pgconn.ConnectError](err); ok && connectErr != nil {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED) ||
		pgconn.SafeToRetry(err)
}

// Detail prints what the server said beyond the message (detail and hint), or "".
func Detail(err error) string {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return ""
	}
	parts := []string{}
	if pgErr.Detail != "" {
		parts = append(parts, pgErr.Detail)
	}
	if pgErr.Hint != "" {
		parts = append(parts, "hint: "+pgErr.Hint)
	}
	return strings.Join(parts, " ")
}

// Fault is the layer at which an attempt to connect failed.
type Fault string

// The layers, from the outside in.
const (
	FaultNone        Fault = ""
	FaultUnreachable Fault = "unreachable" // name not resolved, refused, timed out, no route
	FaultTLS         Fault = "tls"         // the server refused TLS, or its certificate was not accepted
	FaultLogin       Fault = "login"       // pg_hba.conf, role or password
	FaultDatabase    Fault = "database"    // the database does not exist or takes no connections
	FaultLimit       Fault = "limit"       // max_connections or a CONNECTION LIMIT is reached
	FaultStarting    Fault = "starting"    // starting up, shutting down, in recovery
	FaultOther       Fault = "other"
)

// ConnectFault tells at which layer a connect error happened. When several addresses were tried, the answer of a
// server counts more than a missing one.
func ConnectFault(err error) Fault {
	if err == nil {
		return FaultNone
	}
	switch code := Code(err); {
	case strings.HasPrefix(code, "28"):
		return FaultLogin
	case code == "3D000" || code == "42501":
		return FaultDatabase
	case code == "53300" || code == "55000":
		return FaultLimit
	case strings.HasPrefix(code, "57P"):
		return FaultStarting
	case code != "":
		return FaultOther
	}
	if opErr, ok := errors.AsType[*net.OpError](err); ok && opErr.Op == "dial" {
		return FaultUnreachable
	}
	if dnsErr, ok := errors.AsType[*net.DNSError](err); ok && dnsErr != nil {
		return FaultUnreachable
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return FaultUnreachable
	}
	if connectErr, ok := errors.AsType[*pgconn.ConnectError](err); ok && connectErr != nil {
		return FaultTLS // neither the network nor the server's answer: what is left is the handshake
	}
	return FaultOther
}
