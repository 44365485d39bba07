package apply_test

import (
	"testing"

	"github.com/slipway-db/slipway/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
