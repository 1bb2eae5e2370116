################################################################################
#
# flotilla-agent
#
################################################################################

# The directory with flotilla-agent.mjs and what it loads later,
# as `npm run bundle` makes it;
# `flotilla compile` says where. Nothing is downloaded or compiled here.
FLOTILLA_PROGRAMS ?= $(realpath $(BR2_EXTERNAL_FLOTILLA_PATH)/..)/dist
FLOTILLA_AGENT_VERSION = bundled
FLOTILLA_AGENT_SITE = $(FLOTILLA_PROGRAMS)
FLOTILLA_AGENT_SITE_METHOD = local
FLOTILLA_AGENT_LICENSE = MIT
FLOTILLA_AGENT_REDISTRIBUTE = NO

define FLOTILLA_AGENT_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0644 $(@D)/flotilla-agent.mjs \
		$(TARGET_DIR)/usr/lib/flotilla/flotilla-agent.mjs
	rm -rf $(TARGET_DIR)/usr/lib/flotilla/flotilla-agent
	$(INSTALL) -D -m 0644 -t $(TARGET_DIR)/usr/lib/flotilla/flotilla-agent \
		$(@D)/flotilla-agent/*.mjs
	$(INSTALL) -D -m 0755 $(FLOTILLA_AGENT_PKGDIR)/flotilla \
		$(TARGET_DIR)/usr/bin/flotilla
	$(INSTALL) -D -m 0644 $(@D)/flotilla-login.mjs \
		$(TARGET_DIR)/usr/lib/flotilla/flotilla-login.mjs
	$(INSTALL) -D -m 0755 $(FLOTILLA_AGENT_PKGDIR)/flotilla-shell \
		$(TARGET_DIR)/usr/bin/flotilla-shell
	mkdir -p $(TARGET_DIR)/etc/flotilla/health/required.d \
		$(TARGET_DIR)/etc/flotilla/health/wanted.d
endef

define FLOTILLA_AGENT_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(FLOTILLA_AGENT_PKGDIR)/flotilla-agent.service \
		$(TARGET_DIR)/usr/lib/systemd/system/flotilla-agent.service
	$(INSTALL) -D -m 0644 $(FLOTILLA_AGENT_PKGDIR)/flotilla-persist.service \
		$(TARGET_DIR)/usr/lib/systemd/system/flotilla-persist.service
	$(INSTALL) -D -m 0644 $(FLOTILLA_AGENT_PKGDIR)/flotilla-swap.service \
		$(TARGET_DIR)/usr/lib/systemd/system/flotilla-swap.service
endef

$(eval $(generic-package))
