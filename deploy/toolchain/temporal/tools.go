//go:build tools

// Package temporal pins the Temporal CLI with its development server; it is built, never imported.
package temporal

import _ "github.com/temporalio/cli/cmd/temporal"
