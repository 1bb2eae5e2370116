/**
 * The configuration of GRUB, which its core image reads from `boot/grub/grub.cfg` of the boot area. The modules it needs are
 * built into the core image, since a boot area has none.
 * @see protocol/spec/slots.md, "Boot records"; GNU GRUB manual, "Shell-like scripting" and "save_env"
 */
export const GRUB_CONFIG = String.raw`# Chooses the release that starts, counts its tries and survives a power cut at any write: protocol/spec/slots.md, "Boot records".
# There is no menu and no key to press: what cannot be started resets the machine.

# A record is whole when its copy of itself fits; what an earlier one said must not show through.
function fl_read {
  unset fl_seq; unset fl_good; unset fl_trial; unset fl_tries; unset fl_asked; unset fl_seen; unset fl_note; unset fl_check
  load_env -f ($root)/$1 fl_seq fl_good fl_trial fl_tries fl_asked fl_seen fl_note fl_check
  test -n "$fl_good" -a "$fl_check" = "$fl_seq,$fl_good,$fl_trial,$fl_tries,$fl_asked,$fl_seen,$fl_note"
}

# Overwrites the older copy, so that it becomes the newer one, and looks whether it did.
function fl_save {
  # The newer of two follows the other: 0, 1, 2, 0.
  if [ "$fl_seq" = 0 ]; then set fl_seq=1; elif [ "$fl_seq" = 1 ]; then set fl_seq=2; else set fl_seq=0; fi
  set fl_check="$fl_seq,$fl_good,$fl_trial,$fl_tries,$fl_asked,$fl_seen,$fl_note"
  set fl_want="$fl_check"
  save_env -f ($root)/$fl_other fl_seq fl_good fl_trial fl_tries fl_asked fl_seen fl_note fl_check
  fl_read $fl_other
  if [ "$fl_check" != "$fl_want" ]; then return 1; fi
  if [ "$fl_other" = select.0 ]; then set fl_other=select.1; else set fl_other=select.0; fi
}

function fl_start {
  unset fl_kernel; unset fl_initrd; unset fl_args; unset fl_wait
  set fl_from=($root)/releases/$fl_slot
  source $fl_from/loader.cfg
  if [ -z "$fl_kernel" ]; then return 1; fi
  set fl_words="$fl_args flotilla.slot=$fl_slot"
  if [ "$fl_slot" = "$fl_trial" ]; then set fl_words="$fl_words flotilla.trial=$fl_wait"; fi
  if linux $fl_from/$fl_kernel $fl_words; then true; else return 1; fi
  if [ -n "$fl_initrd" ]; then
    if initrd $fl_from/$fl_initrd; then true; else return 1; fi
  fi
  echo "flotilla: starts $fl_slot, tries left $fl_tries"
  boot
}

set fl_zero=none
set fl_one=none
if fl_read select.1; then set fl_one=$fl_seq; fi
if fl_read select.0; then set fl_zero=$fl_seq; fi
set fl_other=select.1
if [ $fl_zero$fl_one = 01 -o $fl_zero$fl_one = 12 -o $fl_zero$fl_one = 20 -o $fl_zero = none ]; then
  set fl_other=select.0
  fl_read select.1
fi
set fl_write=no
if [ $fl_zero$fl_one = nonenone ]; then
  echo "flotilla: both boot records are damaged"
  if fl_read select.rescue; then
    set fl_seq=2; set fl_trial=none; set fl_tries=0; set fl_note=none; set fl_asked=1; set fl_seen=1
    set fl_write=yes
  else
    echo "flotilla: no release is known to start"
    sleep 10
    reboot
  fi
fi

if [ "$fl_seen" != "$fl_asked" ]; then set fl_seen="$fl_asked"; set fl_write=yes; fi
set fl_slot="$fl_good"
set fl_good_slot="$fl_good"
if [ "$fl_trial" != none -a "$fl_tries" != 0 ]; then
  if [ "$fl_tries" = 9 ]; then set fl_tries=8; elif [ "$fl_tries" = 8 ]; then set fl_tries=7
  elif [ "$fl_tries" = 7 ]; then set fl_tries=6; elif [ "$fl_tries" = 6 ]; then set fl_tries=5
  elif [ "$fl_tries" = 5 ]; then set fl_tries=4; elif [ "$fl_tries" = 4 ]; then set fl_tries=3
  elif [ "$fl_tries" = 3 ]; then set fl_tries=2; elif [ "$fl_tries" = 2 ]; then set fl_tries=1
  else set fl_tries=0; fi
  set fl_slot="$fl_trial"
  set fl_write=yes
fi
# What cannot be counted is not tried.
if [ $fl_write = yes ]; then
  if fl_save; then true; else echo "flotilla: the boot record cannot be written"; set fl_slot="$fl_good_slot"; unset fl_trial; fi
fi

fl_start
echo "flotilla: $fl_slot cannot be started"
if [ "$fl_slot" = "$fl_trial" ]; then
  set fl_tries=0
  set fl_note=load
  fl_save
else
  sleep 5
fi
reboot
`
