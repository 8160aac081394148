# relay: one C program. `make run` and `make check` install what is missing from Debian's
# packages first (as root); everything else only builds.

VERSION := 0.1.0

prefix      ?= /usr/local
bindir      ?= $(prefix)/bin
mandir      ?= $(prefix)/share/man
docdir      ?= $(prefix)/share/doc/relay
unitdir     ?= /etc/systemd/system
sysusersdir ?= /usr/lib/sysusers.d
tmpfilesdir ?= /usr/lib/tmpfiles.d

CC       := gcc
BUILD    ?= build
SANITIZE ?=

LIBRARIES := libsodium libsystemd jansson sqlite3 libseccomp

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wvla
HARDENING := -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE
CFLAGS   ?= -O2 -g
override CFLAGS += -std=gnu17 $(WARNINGS) -MMD -MP
override CPPFLAGS += -D_GNU_SOURCE -DRELAY_VERSION='"$(VERSION)"' $(shell pkg-config --cflags $(LIBRARIES) 2>/dev/null)
override LDLIBS += $(shell pkg-config --libs $(LIBRARIES) 2>/dev/null) -lpthread

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

SOURCES := $(wildcard *.c proto/*.c)
OBJECTS := $(SOURCES:%.c=$(BUILD)/%.o)
MODULES := $(filter-out $(BUILD)/relay.o,$(OBJECTS))
UNITS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/check_*.c))

.PHONY: all
all: $(BUILD)/relay

$(BUILD)/relay: $(OBJECTS)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

# A unit test is one file, linked with everything but the command line.
$(BUILD)/tests/%: tests/%.c $(MODULES)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -I. $(CFLAGS) $(shell pkg-config --cflags check) $(LDFLAGS) -o $@ $< $(MODULES) $(LDLIBS) $(shell pkg-config --libs check)

.PHONY: unit
unit: $(UNITS)
	@for test in $(UNITS); do $$test || exit 1; done

.PHONY: clean
clean:
	rm -rf build

-include $(OBJECTS:.o=.d) $(UNITS:%=%.d)
