// Package zos is the root of Zero-OS: the operating system and the grid that
// turn any machine into capacity which strangers can use safely.
//
// The root holds no code, only the tests that keep the house in order: who may
// import whom, which modules are used and why. ARCHITECTURE.md is the map.
package zos
