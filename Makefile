# relay: one C program. `make run` and `make check` install what is missing from Debian's
# packages first (as root); everything else only builds. V=1 shows each command.

ifeq ($(wildcard relay.c),)
$(error run make in the directory of this Makefile, or with make -C)
endif

VERSION := 0.1.0

prefix      ?= /usr/local
bindir      ?= $(prefix)/bin
mandir      ?= $(prefix)/share/man
docdir      ?= $(prefix)/share/doc/relay
unitdir     ?= /etc/systemd/system
sysusersdir ?= /usr/lib/sysusers.d
tmpfilesdir ?= /usr/lib/tmpfiles.d

ifeq ($(origin CC),default)
CC := gcc
endif
PKG_CONFIG ?= pkg-config
BUILD      ?= build
SANITIZE   ?=

LIBRARIES := libsodium libsystemd jansson sqlite3 libseccomp libssl libcrypto mpack

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wvla
HARDENING := -fstack-protector-strong -fstack-clash-protection -fPIE
ifneq ($(filter x86_64-% i%86-%,$(shell $(CC) -dumpmachine)),)
HARDENING += -fcf-protection
endif
CFLAGS   ?= -O2 -g
override CFLAGS += -std=gnu17 $(WARNINGS) -MMD -MP
override CPPFLAGS += -I. -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64 -DRELAY_VERSION='"$(VERSION)"' $(shell $(PKG_CONFIG) --cflags $(LIBRARIES))
override LDLIBS += $(shell $(PKG_CONFIG) --libs $(LIBRARIES)) -lpthread

# Everything is instrumented, and a fuzz target has libFuzzer's main().
ifneq ($(FUZZ),)
SANITIZE := fuzzer-no-link,address,undefined
endif
ifeq ($(SANITIZE),)
override CFLAGS += $(HARDENING)
override CPPFLAGS += -D_FORTIFY_SOURCE=2
override LDFLAGS += -pie -Wl,-z,relro,-z,now,-z,noexecstack
else
# A system-call filter would stop the sanitizers' own calls.
override CFLAGS += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=all
override CPPFLAGS += -DRELAY_NO_SANDBOX
override LDFLAGS += -fsanitize=$(SANITIZE)
endif
ifneq ($(NO_SANDBOX),)
override CPPFLAGS += -DRELAY_NO_SANDBOX
endif

FOLDERS := worker proto forward codec tls usage setup base
SOURCES := $(wildcard *.c $(FOLDERS:=/*.c))
OBJECTS := $(SOURCES:%.c=$(BUILD)/%.o)
MODULES := $(filter-out $(BUILD)/relay.o,$(OBJECTS))
UNITS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/check_*.c))
TOOLS   := $(BUILD)/tests/capnp_tool

ifeq ($(V),)
QUIET = @echo "  $(1)" $@ &&
endif

.PHONY: all
all: $(BUILD)/relay

# What is built with other flags is built anew.
$(BUILD)/flags: always
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(LDLIBS))' | cmp -s - $@ || \
		echo '$(subst ','\'',$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(LDLIBS))' >$@
.PHONY: always

$(BUILD)/relay: $(OBJECTS)
	$(call QUIET,LD) $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call QUIET,CC) $(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

# A unit test is one file, linked with everything but the command line.
$(BUILD)/tests/%: tests/%.c tests/suite.h $(MODULES)
	@mkdir -p $(@D)
	$(call QUIET,LD) $(CC) $(CPPFLAGS) $(CFLAGS) $(shell $(PKG_CONFIG) --cflags check) $(LDFLAGS) -o $@ $< $(MODULES) $(LDLIBS) $(shell $(PKG_CONFIG) --libs check)

.PHONY: tools
tools: $(TOOLS)

$(BUILD)/bench/%: bench/%.c $(MODULES)
	@mkdir -p $(@D)
	$(call QUIET,LD) $(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(MODULES) $(LDLIBS)

# A fuzz target is linked in the same way.
$(BUILD)/fuzz/%: tests/fuzz/%.c $(MODULES)
	@mkdir -p $(@D)
	$(call QUIET,LD) $(CC) $(CPPFLAGS) $(CFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $< $(MODULES) $(LDLIBS)

# ---- what `make run` and `make check` need, from Debian ------------------------------

BUILD_PACKAGES := gcc make pkg-config libc6-dev libsodium-dev libsystemd-dev libjansson-dev \
	libsqlite3-dev libseccomp-dev libssl-dev libmpack-dev
CHECK_PACKAGES := $(BUILD_PACKAGES) check python3 systemd iproute2 util-linux libwrap0 valgrind \
	magic-wormhole python3-magic-wormhole-mailbox-server capnproto python3-cryptography libfaketime \
	openssl haproxy nginx-light libnginx-mod-stream user-mode-linux \
	python3-websockets python3-msgpack python3-pkg-resources \
	s6 runit daemontools ucspi-tcp socat dpkg
# For the real clients that are not Debian's (tests/live/peers/install); a node that is there is kept.
PEERS_PACKAGES := python3-venv openssl chromium $(if $(shell command -v npm),,nodejs npm)
LINT_PACKAGES  := $(BUILD_PACKAGES) check python3 clang clang-format clang-tidy cppcheck mandoc shellcheck
FUZZ_PACKAGES  := $(BUILD_PACKAGES) clang libclang-rt-14-dev
CROSS_PACKAGES := $(BUILD_PACKAGES) python3 python3-cryptography openssl qemu-user-static \
	gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf gcc-i686-linux-gnu gcc-riscv64-linux-gnu gcc-s390x-linux-gnu
BENCH_PACKAGES := $(BUILD_PACKAGES) python3 haproxy magic-wormhole-transit-relay python3-cryptography $(filter-out chromium,$(PEERS_PACKAGES))

.PHONY: packages-build packages-check packages-peers packages-cross packages-lint packages-fuzz packages-bench
packages-build:
	@tests/packages $(BUILD_PACKAGES)
packages-check:
	@tests/packages $(CHECK_PACKAGES)
packages-peers:
	@tests/packages $(CHECK_PACKAGES) $(PEERS_PACKAGES)
packages-cross:
	@tests/packages $(CROSS_PACKAGES)
packages-lint:
	@tests/packages $(LINT_PACKAGES)
packages-fuzz:
	@tests/packages $(FUZZ_PACKAGES)
packages-bench:
	@tests/packages $(BENCH_PACKAGES)

# Make reads pkg-config's answers before a recipe installs anything, hence a make of its own.
.PHONY: run
run: packages-build
	@$(MAKE) --no-print-directory all
	$(BUILD)/relay serve

# ---- tests ---------------------------------------------------------------------------

# Fewer with PATTERN=...: those whose file names match; of check-cross, processors.
PATTERN ?=

.PHONY: check check-peers check-sanitized check-valgrind
check: packages-check
	@tests/run plain '$(PATTERN)'
check-peers: packages-peers
	@tests/run peers '$(PATTERN)'
check-sanitized: packages-check
	@tests/run sanitized '$(PATTERN)'
check-valgrind: packages-check
	@tests/run valgrind '$(PATTERN)'

# For other processors, by qemu, with the libraries that Debian has for them.
.PHONY: check-cross
check-cross: packages-cross
	@tests/cross/run '$(PATTERN)' $(filter-out gcc make pkg-config,$(BUILD_PACKAGES)) check

# Ten minutes of every protocol under systemd, as installed; it takes little of the processors.
export SOAK_SECONDS ?= 600

.PHONY: soak
soak: packages-check
	@tests/run soak

.PHONY: lint
lint: packages-lint
	@tests/lint '$(LIBRARIES)' '$(FOLDERS)'

.PHONY: fuzz
fuzz: packages-fuzz
	@tests/fuzz/run

.PHONY: bench
bench: packages-bench
	@$(MAKE) --no-print-directory all $(BUILD)/bench/cipher
	@bench/run
	@tests/live/peers/install
	@bench/websocket
	@$(BUILD)/bench/cipher
	@bench/offset

# ---- installing ----------------------------------------------------------------------

UNIT_FILES := relay.socket relay@.service relay-forward.socket relay-forward.service \
	relay-prefork.socket relay-prefork.service relay-check.path relay-check.service \
	relay-failed.service
DOCS       := README.md SECURITY.md CHANGELOG.md LICENSE
DAEMONS    := relay.xinetd relay.inetd
SAMPLES    := haproxy.cfg nginx-stream.conf nginx-web.conf run run-s6 supervisord.conf relay.init
OFFSET_NAMES := strelay stmgr
IN_PLACE    = sed 's|@BINDIR@|$(bindir)|g'

.PHONY: install
install: all
	install -d $(DESTDIR)$(bindir) $(DESTDIR)$(mandir)/man1 $(DESTDIR)$(mandir)/man7 $(DESTDIR)$(mandir)/man8 \
		$(DESTDIR)$(docdir) $(DESTDIR)$(unitdir) $(DESTDIR)$(sysusersdir) $(DESTDIR)$(tmpfilesdir)
	install -m 755 $(BUILD)/relay $(DESTDIR)$(bindir)/relay
	for name in $(OFFSET_NAMES); do ln -sf relay $(DESTDIR)$(bindir)/$$name || exit 1; done
	install -m 644 $(OFFSET_NAMES:%=man/%.1) $(DESTDIR)$(mandir)/man1
	install -m 644 man/relay.8 $(DESTDIR)$(mandir)/man8/relay.8
	install -m 644 man/relay-protocols.7 man/relay-proxies.7 $(DESTDIR)$(mandir)/man7
	install -m 644 $(DOCS) $(DESTDIR)$(docdir)
	install -m 644 units/relay-sysusers.conf $(DESTDIR)$(sysusersdir)/relay.conf
	install -m 644 units/relay-tmpfiles.conf $(DESTDIR)$(tmpfilesdir)/relay.conf
	@for file in $(UNIT_FILES); do $(IN_PLACE) "units/$$file" > "$(DESTDIR)$(unitdir)/$$file" || exit 1; done
	@for file in $(DAEMONS); do $(IN_PLACE) "units/$$file" > "$(DESTDIR)$(docdir)/$$file" || exit 1; done
	@for file in $(SAMPLES); do $(IN_PLACE) "samples/$$file" > "$(DESTDIR)$(docdir)/$$file" || exit 1; done
	chmod 644 $(addprefix $(DESTDIR)$(unitdir)/,$(UNIT_FILES)) $(addprefix $(DESTDIR)$(docdir)/,$(DAEMONS) $(SAMPLES))
	@if [ -z "$(DESTDIR)" ]; then units/make-user "$(sysusersdir)/relay.conf"; fi
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
		systemd-tmpfiles --create relay.conf && systemctl daemon-reload; \
	fi

# Whether the units are of this prefix. Those of another one are left alone, and what they start.
UNITS_ARE_OURS = [ ! -e "$(DESTDIR)$(unitdir)/relay-forward.service" ] || \
	grep -qF "ExecStart=$(bindir)/relay " "$(DESTDIR)$(unitdir)/relay-forward.service"
SERVICES := relay-prefork.service relay-forward.service relay-check.path relay-check.service
SOCKETS  := relay.socket relay-prefork.socket relay-forward.socket
# Where `systemctl enable` puts its links.
LINKS    := $(SOCKETS:%=/etc/systemd/system/sockets.target.wants/%)

# Nothing may go on to listen that has nothing left to start.
.PHONY: uninstall
uninstall:
	@if $(UNITS_ARE_OURS); then \
		if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
			systemctl --quiet disable $(SOCKETS); \
			systemctl stop $(SOCKETS) $(SERVICES) 'relay@*.service'; \
			systemctl --quiet reset-failed $(SOCKETS) $(SERVICES) 'relay@*.service' 2>/dev/null; \
		fi; \
		rm -f $(addprefix "$(DESTDIR)",$(LINKS)) $(addprefix "$(DESTDIR)$(unitdir)"/,$(UNIT_FILES)) \
			"$(DESTDIR)$(sysusersdir)/relay.conf" "$(DESTDIR)$(tmpfilesdir)/relay.conf" \
			"$(DESTDIR)/run/relay-failed" || exit 1; \
		if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi; \
	else \
		echo "the units in $(DESTDIR)$(unitdir) start another relay than $(bindir)/relay, and stay"; \
	fi
	rm -f $(DESTDIR)$(bindir)/relay $(DESTDIR)$(mandir)/man8/relay.8 \
		$(DESTDIR)$(mandir)/man7/relay-protocols.7 $(DESTDIR)$(mandir)/man7/relay-proxies.7
	rm -f $(OFFSET_NAMES:%=$(DESTDIR)$(bindir)/%) $(OFFSET_NAMES:%=$(DESTDIR)$(mandir)/man1/%.1)
	rm -f $(addprefix $(DESTDIR)$(docdir)/,$(DOCS) $(DAEMONS) $(SAMPLES))
	-rmdir $(DESTDIR)$(docdir)

.PHONY: clean
clean:
	rm -rf $(BUILD)

-include $(OBJECTS:.o=.d) $(UNITS:%=%.d) $(TOOLS:%=%.d)
