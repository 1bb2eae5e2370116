/**
 * The loader of the U-Boot family, as text for `encodeScriptImage`. Written for U-Boot's old shell as well: no functions, no
 * sums (`setexpr` is not built in everywhere), variables without braces.
 * @see protocol/spec/slots.md, "Boot records"; U-Boot, doc/usage/cmd
 */
export const UBOOT_SCRIPT = String.raw`# Chooses the release that starts, counts its tries and survives a power cut at any write: protocol/spec/slots.md, "Boot records".
# U-Boot's old shell has neither functions nor sums, and a board's own environment may lie anywhere: all is said with run and
# if, nothing is saved but the record.
setenv fl_on "$devtype $devnum:$distro_bootpart"
setenv fl_names fl_seq fl_good fl_trial fl_tries fl_asked fl_seen fl_note

# A record is whole when its checksum fits; what an earlier one said must not show through.
setenv fl_clear 'setenv fl_seq; setenv fl_good; setenv fl_trial; setenv fl_tries; setenv fl_asked; setenv fl_seen; setenv fl_note'
setenv fl_read 'run fl_clear; load $fl_on $kernel_addr_r /$fl_file && test "$filesize" = 200 && env import -c $kernel_addr_r 200 $fl_names && test -n "$fl_good"'
# The newer of two follows the other: 0, 1, 2, 0. It is overwritten last.
setenv fl_next 'if test "$fl_seq" = 0; then setenv fl_seq 1; elif test "$fl_seq" = 1; then setenv fl_seq 2; else setenv fl_seq 0; fi'
setenv fl_swap 'if test "$fl_other" = select.0; then setenv fl_other select.1; else setenv fl_other select.0; fi'
setenv fl_save 'run fl_next; env export -c -s 200 $kernel_addr_r $fl_names && fatwrite $fl_on $kernel_addr_r /$fl_other 200 && load $fl_on $ramdisk_addr_r /$fl_other && cmp.b $kernel_addr_r $ramdisk_addr_r 200 && run fl_swap'

setenv fl_file select.1
if run fl_read; then setenv fl_one "$fl_seq"; else setenv fl_one none; fi
setenv fl_file select.0
if run fl_read; then setenv fl_zero "$fl_seq"; else setenv fl_zero none; fi
setenv fl_other select.1
if test "$fl_zero$fl_one" = 01 || test "$fl_zero$fl_one" = 12 || test "$fl_zero$fl_one" = 20 || test "$fl_zero" = none; then
  setenv fl_other select.0
  setenv fl_file select.1
  run fl_read
fi
setenv fl_write no
if test "$fl_zero$fl_one" = nonenone; then
  echo "flotilla: both boot records are damaged"
  setenv fl_file select.rescue
  if run fl_read; then
    setenv fl_seq 2; setenv fl_trial none; setenv fl_tries 0; setenv fl_note none; setenv fl_asked 1; setenv fl_seen 1
    setenv fl_write yes
  else
    echo "flotilla: no release is known to start"
    sleep 10
    reset
  fi
fi

if test "$fl_seen" != "$fl_asked"; then setenv fl_seen "$fl_asked"; setenv fl_write yes; fi
setenv fl_slot "$fl_good"
if test "$fl_trial" != none && test "$fl_tries" != 0; then
  if test "$fl_tries" = 9; then setenv fl_tries 8; elif test "$fl_tries" = 8; then setenv fl_tries 7
  elif test "$fl_tries" = 7; then setenv fl_tries 6; elif test "$fl_tries" = 6; then setenv fl_tries 5
  elif test "$fl_tries" = 5; then setenv fl_tries 4; elif test "$fl_tries" = 4; then setenv fl_tries 3
  elif test "$fl_tries" = 3; then setenv fl_tries 2; elif test "$fl_tries" = 2; then setenv fl_tries 1
  else setenv fl_tries 0; fi
  setenv fl_slot "$fl_trial"
  setenv fl_write yes
fi
# What cannot be counted is not tried.
if test "$fl_write" = yes; then
  if run fl_save; then true; else echo "flotilla: the boot record cannot be written"; setenv fl_slot "$fl_good"; fi
fi

setenv fl_from "/releases/$fl_slot"
setenv fl_kernel; setenv fl_initrd; setenv fl_fdt; setenv fl_args; setenv fl_wait
setenv fl_ramdisk -
# The release's own device tree, the one of several that the board names, or the board's.
setenv fl_tree "$fdtcontroladdr"
if test -n "$fdt_addr"; then setenv fl_tree "$fdt_addr"; fi
setenv fl_settings 'load $fl_on $kernel_addr_r $fl_from/loader.env && env import -t $kernel_addr_r $filesize fl_kernel fl_initrd fl_fdt fl_args fl_wait && test -n "$fl_kernel"'
setenv fl_load_tree 'load $fl_on $fdt_addr_r $fl_from/$fl_fdt && setenv fl_tree $fdt_addr_r'
setenv fl_load_initrd 'load $fl_on $ramdisk_addr_r $fl_from/$fl_initrd && setenv fl_ramdisk $ramdisk_addr_r:$filesize'
setenv fl_load_kernel 'load $fl_on $kernel_addr_r $fl_from/$fl_kernel'
setenv fl_ok no
if run fl_settings; then
  setenv fl_ok yes
  setenv bootargs "$fl_args flotilla.slot=$fl_slot"
  if test "$fl_slot" = "$fl_trial"; then setenv bootargs "$bootargs flotilla.trial=$fl_wait"; fi
  if test -z "$fl_fdt" && test -n "$fdtfile"; then
    if test -e $fl_on $fl_from/$fdtfile; then setenv fl_fdt "$fdtfile"; fi
  fi
  if test -n "$fl_fdt"; then if run fl_load_tree; then true; else setenv fl_ok no; fi; fi
  if test -n "$fl_initrd"; then if run fl_load_initrd; then true; else setenv fl_ok no; fi; fi
  if run fl_load_kernel; then true; else setenv fl_ok no; fi
fi
echo "flotilla: starts $fl_slot, tries left $fl_tries"
if test "$fl_ok" = yes; then
  booti $kernel_addr_r $fl_ramdisk $fl_tree
  bootz $kernel_addr_r $fl_ramdisk $fl_tree
fi
echo "flotilla: $fl_slot cannot be started"
if test "$fl_slot" = "$fl_trial"; then
  setenv fl_tries 0
  setenv fl_note load
  run fl_save
else
  sleep 5
fi
reset
`
